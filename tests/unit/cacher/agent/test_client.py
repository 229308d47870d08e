"""What the client makes of an agent that says too much, or what is no event: an error, not the same question for ever."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prestage.cacher.agent import client as module
from prestage.cacher.agent.client import AgentClient, AgentGone
from prestage.cacher.errors import Unavailable

LONG = json.dumps({"event": "done", "bad": ["x" * 1000] * 2100}).encode() + b"\n"


@contextmanager
def answering(path: Path, body: bytes, status: str = "200 OK") -> Iterator[AgentClient]:
    """An agent that says `body` to whoever asks first."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(BrokenPipeError, ConnectionResetError):  # who has heard enough goes
                asked = b""
                while not asked.endswith(b"{}"):
                    asked += connection.recv(65536)
                connection.sendall(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode() + body)

        thread = threading.Thread(target=answer)
        thread.start()
        yield AgentClient(path)
        thread.join()


def test_an_event_of_some_megabytes_is_read_whole(tmp_path: Path) -> None:
    assert len(LONG) > 2 << 20
    with answering(tmp_path / "s", LONG) as client:
        (last,) = client.stream("POST", "/v1/verify", {})
    assert last == json.loads(LONG)


@pytest.mark.parametrize(
    "line",
    [LONG, b"no json\n", b'["event"]\n', b'{"x": 1}\n', b"\xff\n", b"[" * 100_000 + b"\n"],
    ids=["too long", "no JSON", "no object", "no event", "no text", "too deep"],
)
def test_what_is_no_event_is_an_error_and_not_a_reason_to_ask_again(
    line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_BYTES", 1 << 20)
    with answering(tmp_path / "s", line) as client, pytest.raises(Unavailable, match="not understood"):
        list(client.stream("POST", "/v1/verify", {}))


def test_what_is_no_answer_is_an_error(tmp_path: Path) -> None:
    with answering(tmp_path / "s", b"<html>") as client, pytest.raises(Unavailable, match="not understood"):
        client.call("POST", "/v1/evict", {})


def test_a_refusal_that_is_not_the_agents_own_is_an_error_too(tmp_path: Path) -> None:
    with (
        answering(tmp_path / "s", b"500 Internal Server Error", "500 Internal Server Error") as client,
        pytest.raises(Unavailable, match="not understood"),
    ):
        list(client.stream("POST", "/v1/verify", {}))


def test_an_event_that_breaks_off_is_of_an_agent_that_has_gone(tmp_path: Path) -> None:
    with answering(tmp_path / "s", b'{"event": "progr') as client, pytest.raises(AgentGone):
        list(client.stream("POST", "/v1/verify", {}))
