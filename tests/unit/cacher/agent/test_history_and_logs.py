"""What the agent remembers is bounded, and what it says is one JSON object a line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from prestage.cacher.agent import logs
from prestage.cacher.agent.feed import Feed
from prestage.cacher.agent.history import REMEMBERED, History


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    logs.set_up(as_json=True, stream=stream)
    yield stream
    root.handlers[:], root.level = handlers, level


def test_history_remembers_the_last_decisions_and_finds_those_about_one() -> None:
    async def scenario() -> History:
        history = History(Feed(asyncio.get_running_loop()))
        for number in range(REMEMBERED + 10):
            history.add("staged", artifact=f"sha256:{number}", ref=f"file:///{number % 7}")
        return history

    history = asyncio.run(scenario())
    assert history.about("sha256:3", None) == []
    assert [entry["artifact"] for entry in history.about(f"sha256:{REMEMBERED}", None)] == [f"sha256:{REMEMBERED}"]
    about = history.about(None, "file:///3")
    assert REMEMBERED // 7 <= len(about) <= REMEMBERED // 7 + 1
    assert [entry["at"] for entry in about] == sorted(float(str(entry["at"])) for entry in about)


def test_a_log_line_is_one_object_even_with_an_exception_and_odd_values(said: io.StringIO) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as exc:
        logs.log("odd", exc=exc, fields={"path": object, "text": "a\nb", "none": None})
    logs.log("plain", fields={"count": 1})
    first, second = map(json.loads, said.getvalue().splitlines())
    assert (first["event"], first["text"]) == ("odd", "a\nb")
    assert "none" not in first
    assert "ValueError: two" in first["exception"]
    assert (second["event"], second["count"], second["level"]) == ("plain", 1, "info")
    assert second["time"].endswith("Z")


def test_what_a_client_did_wrong_is_not_logged_and_what_we_did_wrong_is(said: io.StringIO) -> None:
    server = logging.getLogger("aiohttp.server")
    for exc in (BadHttpMessage("garbage"), RuntimeError("ours")):
        try:
            raise exc
        except (BadHttpMessage, RuntimeError):
            server.exception("Error handling request")
    (line,) = map(json.loads, said.getvalue().splitlines())
    assert "RuntimeError: ours" in line["exception"]
