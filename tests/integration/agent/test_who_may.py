"""SO_PEERCRED decides: who connects, as the kernel says it, may do what the agent's flags give him, and is told what he lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from agents import Agent

from servers.hostile import Hostile

STRANGER, READER, ADMIN = 1000, 1001, 1002
_ASK = """
import http.client, json, socket, sys
path, method, target, body = sys.argv[1:5]
connection = http.client.HTTPConnection("agent")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(30)
connection.sock.connect(path)
connection.request(method, target, body=body or None)
response = connection.getresponse()
print(response.status)
print(response.readline().decode() or "{}", flush=True)
if len(sys.argv) > 5:
    sys.stdin.readline()
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Agent]:
    """An agent that lets a reader and an admin in, on a socket outside the store, which is root's."""
    with tempfile.TemporaryDirectory(prefix="prestage-") as folder:  # pytest keeps its own for one user
        Path(folder).chmod(0o755)
        socket = Path(folder) / "agent.sock"
        options = ("--socket", str(socket), "--reader-uid", str(READER), "--admin-uid", str(ADMIN))
        agent = Agent(tmp_path / "store", *options)
        agent.socket = socket
        with agent:
            yield agent


def start(
    agent: Agent, uid: int, method: str, target: str, body: Mapping[str, object] | None, *words: str
) -> subprocess.Popen[str]:
    command = [_interpreter(), "-I", "-c", _ASK, str(agent.socket), method, target, json.dumps(body) if body else "", *words]
    return subprocess.Popen(
        command, user=uid, group=uid, extra_groups=[], cwd="/", text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _interpreter() -> str:
    """One that another user can run: the tests' own may lie in root's home."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        done = (
            subprocess.run(
                [candidate, "-I", "-c", "import json, http.client"],
                user=STRANGER,
                group=STRANGER,
                capture_output=True,
                check=False,
            )
            if os.access(candidate, os.X_OK) and _reachable(candidate)
            else None
        )
        if done is not None and done.returncode == 0:
            return candidate
    pytest.skip("no Python that another user may run")


def _reachable(path: str) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in Path(path).resolve().parents)


def asked(
    agent: Agent, uid: int, method: str, target: str, body: Mapping[str, object] | None = None
) -> tuple[int, dict[str, Any]]:
    process = start(agent, uid, method, target, body)
    out, _ = process.communicate(timeout=60)
    status, said = out.splitlines()[:2]
    return int(status), json.loads(said)


def test_a_stranger_is_refused_by_name_whatever_he_asks(shared: Agent) -> None:
    for method, target, body in (
        ("GET", "/v1/status", None),
        ("GET", "/v1/artifacts", None),
        ("POST", "/v1/stages", {"ref": "file:///etc"}),
        ("GET", "/v1/events", None),
    ):
        status, said = asked(shared, STRANGER, method, target, body)
        assert (status, said["kind"]) == (403, "denied")
        assert f"user {STRANGER}" in said["message"]
        assert f"-uid {STRANGER}" in said["hint"]


def test_a_reader_resolves_and_holds_but_changes_nothing(shared: Agent, origin: Hostile) -> None:
    url = origin.url("/small-0")
    artifact = shared.stage(url)["artifact"]
    assert asked(shared, READER, "GET", f"/v1/resolve?ref={url}")[0] == 200
    status, held = asked(shared, READER, "POST", "/v1/holds", {"ref": url, "ttl_s": 60})
    assert status == 200
    assert shared.ask("POST", "/v1/evict", {"ref": url}).status == 423
    pinned = shared.ask("POST", "/v1/holds", {"ref": url, "kind": "pin"}).good["hold"]
    for method, target, body in (
        ("POST", "/v1/stages", {"ref": url}),
        ("POST", "/v1/stage", {"ref": url}),
        ("POST", "/v1/evict", {"ref": url}),
        ("POST", "/v1/pause", None),
        ("POST", "/v1/verify", {}),
        ("DELETE", f"/v1/pins?ref={url}", None),
        ("POST", "/v1/holds", {"ref": url, "kind": "pin"}),
        ("DELETE", f"/v1/holds/{artifact}/{pinned}", None),
    ):
        status, said = asked(shared, READER, method, target, body)
        assert (status, said["kind"]) == (403, "denied"), (method, target)
        assert f"--admin-uid {READER}" in said["hint"]
    assert asked(shared, READER, "DELETE", f"/v1/holds/{artifact}/{held['hold']}")[0] == 204


def test_an_admin_may_do_everything(shared: Agent, origin: Hostile) -> None:
    url = origin.url("/small-1")
    status, view = asked(shared, ADMIN, "POST", "/v1/stages", {"ref": url, "keep": True})
    assert (status, view["ref"]) == (200, url)
    shared.wait_for_event("staged", ref=url)
    assert asked(shared, ADMIN, "POST", "/v1/holds", {"ref": url, "kind": "pin"})[0] == 200
    assert asked(shared, ADMIN, "DELETE", f"/v1/pins?ref={url}")[1]["pins"] == 1
    assert asked(shared, ADMIN, "POST", "/v1/evict", {"ref": url})[0] == 200


def test_a_run_hold_ends_with_the_process_that_asked_for_it(shared: Agent, origin: Hostile) -> None:
    url = origin.url("/small-2")
    shared.stage(url)
    process = start(shared, READER, "POST", "/v1/holds", {"ref": url, "kind": "run"}, "stay")
    assert process.stdout is not None
    assert process.stdout.readline() == "200\n"
    (row,) = shared.ask("GET", "/v1/artifacts").good
    assert [(hold["kind"], hold["pid"]) for hold in row["holds"]] == [("run", process.pid)]
    assert shared.ask("POST", "/v1/evict", {"ref": url}).status == 423
    process.communicate("go\n", timeout=60)
    assert shared.ask("POST", "/v1/evict", {"ref": url}).status == 200


def test_the_socket_is_roots_alone_when_nobody_else_is_let_in(agent: Agent) -> None:
    assert agent.socket.stat().st_mode & 0o777 == 0o600
    assert agent.root.stat().st_mode & 0o777 == 0o700
