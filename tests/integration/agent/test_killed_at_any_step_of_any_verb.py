"""A live agent, killed at every step of whatever it is asked to do: what it answered is done, what it did not answer is done or
not, and the store that it leaves is whole.

The agent is forked from this warm process, with the disk of the store's own crash tests, which kill the same operations after
each step too (tests/unit/cacher/store/test_kills.py, tests/unit/cacher/bringing). Here the answer is what counts.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlencode

import pytest
from agents import wait_for
from agents.contract import UnixConnection
from bringing import archive_of, read_folder, write_folder
from stores.disks import CountingDisk, FailingDisk, KillingDisk
from stores.kills import copied
from stores.making import stage
from stores.oracle import check_invariants
from stores.scenarios import KNOWN, PARTS, SCENARIOS, SHARING, SMALL, Acks, Scenario

from prestage.cacher.agent import app
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.routes import ROUTES
from prestage.cacher.store.holds import Mount
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms

FILES = {"config.json": b'{"a": 1}', "deep/model.safetensors": bytes(9001), "empty": b""}
MOST_STEPS = 1000
"""Calls that change the disk before which the agent dies, one after the other, until it survives: none makes so many."""
Body = Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Verb:
    """What is asked of the agent, of a store as `scenario` prepares it."""

    scenario: Scenario
    path: Callable[[Path], str]
    body: Callable[[Path], Body] = lambda _: None
    ack: str = ""
    """What the scenario's check calls it, when it was answered."""


def of(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def _nothing_yet(store: Store) -> None:
    assert store.list() == []


def _unused(store: Store, _: object) -> None:
    raise AssertionError("the agent does it")


def _check_brought(store: Store, acks: Acks) -> None:
    """All of it or nothing that could be used; answered: all."""
    rows = store.list()
    assert not acks or [row.state for row in rows] == ["staged"]
    for row in rows:
        assert row.state in ("staged", "partial")
        if row.state == "staged":
            assert read_folder(store.path(row.artifact)) == FILES


def _check_kept(store: Store, acks: Acks) -> None:
    """It is still to be done, or done."""
    assert not acks or list(store.wishes.all()) or [row.state for row in store.list()] == ["staged"]
    _check_brought(store, ())


def _check_taken(store: Store, acks: Acks) -> None:
    """Each file is there still, or here already."""
    _check_brought(store, acks)
    source = store.root.parent / "source"
    here = {
        path: data
        for row in store.list()
        if row.state == "staged"
        for path, data in read_folder(store.path(row.artifact)).items()
    }
    there = read_folder(source) if source.exists() else {}
    assert {**here, **there} == FILES
    assert not (acks and there)


def _prepare_pair(store: Store) -> None:
    for model in (SMALL, SHARING):
        stage(store, model)


def _prepare_mounted(store: Store) -> None:
    _prepare_pair(store)
    store.compose(PARTS, Terms("mount", mount=Mount("uid", "/target")))


def _check_composed(store: Store, acks: Acks) -> None:
    """The oracle looks at the trees. Nothing is mounted here, so the next owner may have let go of what was composed."""
    for tree in store.trees():
        assert (tree.path / "m" / "config.json").read_bytes() == SMALL.contents["config.json"]


TAKE = Scenario("take", _nothing_yet, _unused, _check_taken)
KEEP = Scenario("keep", _nothing_yet, _unused, _check_kept)
BRING = Scenario("bring", _nothing_yet, _unused, _check_brought)
COMPOSE = Scenario("compose for a mount", _prepare_pair, _unused, _check_composed)
DROP = replace(of("drop a tree"), prepare=_prepare_mounted)
TREE = {"parts": [{"name": "m", "artifact": SMALL.artifact}], "pod": "uid", "target": "/target"}
CHUNK = {"artifact": SMALL.artifact, "path": "sub/dir/weights.bin", "offset": 0}


def source(top: Path) -> str:
    return (top / "source").as_uri()


def only(folder: Path) -> str:
    (found,) = folder.iterdir()
    return found.name.removesuffix(".json")


def pin_path(top: Path) -> str:
    return f"/v1/holds/{SMALL.artifact}/{only(top / 'store/holds' / SMALL.artifact.removeprefix('sha256:'))}"


VERBS: dict[str, Verb] = {
    "POST /v1/stage": Verb(BRING, lambda _: "/v1/stage", lambda top: {"ref": source(top)}, "staged"),
    "POST /v1/stages": Verb(KEEP, lambda _: "/v1/stages", lambda top: {"ref": source(top), "keep": True}, "kept"),
    "POST /v1/pause": Verb(of("pause"), lambda _: "/v1/pause", ack="paused"),
    "POST /v1/resume": Verb(of("resume"), lambda _: "/v1/resume", ack="resumed"),
    "POST /v1/holds": Verb(of("hold"), lambda _: "/v1/holds", lambda _: {"ref": SMALL.artifact, "kind": "pin"}, "held"),
    "DELETE /v1/holds/{artifact}/{hold}": Verb(of("unpin"), pin_path, ack="unpinned"),
    "DELETE /v1/pins": Verb(of("unpin"), lambda _: f"/v1/pins?{urlencode({'ref': SMALL.artifact})}", ack="unpinned"),
    "POST /v1/evict": Verb(of("evict"), lambda _: "/v1/evict", lambda _: {"ref": SMALL.artifact}, "evicted"),
    "POST /v1/adopt": Verb(BRING, lambda _: "/v1/adopt", lambda top: {"path": str(top / "source")}, "adopted"),
    "POST /v1/adopt, taking": Verb(TAKE, lambda _: "/v1/adopt", lambda top: {"path": str(top / "source"), "take": True}, "taken"),
    "POST /v1/import": Verb(of("import"), lambda _: "/v1/import", lambda top: {"path": str(top / "archive.tar")}, "imported"),
    "POST /v1/report": Verb(of("quarantine"), lambda _: "/v1/report", lambda _: CHUNK, "quarantined"),
    "POST /v1/verify": Verb(of("quarantine"), lambda _: "/v1/verify", lambda _: {}, "quarantined"),
    "POST /v1/trees": Verb(COMPOSE, lambda _: "/v1/trees", lambda _: TREE),
    "DELETE /v1/trees/{hold}": Verb(DROP, lambda top: f"/v1/trees/{only(top / 'store/mounts')}", ack="dropped"),
}
NOTHING_ON_DISK = {
    "DELETE /v1/stages/{id}",  # its end is that of any stage that is cut off
    "POST /v1/stages/{id}/pause",
    "POST /v1/stages/{id}/resume",  # a wish is written anew: "keep a wish" in the store's own tests
    "POST /v1/sockets",
    "DELETE /v1/sockets",  # they live as long as the agent
}


def test_every_verb_of_the_api_is_killed_here_or_changes_nothing_on_disk() -> None:
    changing = {f"{route.method} {route.path}" for route in ROUTES if route.method != "GET"}
    assert changing == {name.partition(",")[0] for name in VERBS} | NOTHING_ON_DISK


def forked_agent(top: Path, disk: CountingDisk, scenario: Scenario) -> int:
    """Its process, ready. The disk is armed once it gets SIGUSR1."""
    child = os.fork()
    if child:
        return child
    try:
        log = os.open(top / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for fd in (1, 2):
            os.dup2(log, fd)
        opened, patch = Store.open, pytest.MonkeyPatch()
        patch.setattr(Store, "open", lambda *args, **kwargs: opened(*args, **kwargs, disk=disk))
        signal.signal(signal.SIGUSR1, lambda *_: setattr(disk, "armed", True))
        root, budget_bytes = top / "store", scenario.budget_bytes
        app.run(AgentConfig(root, root / "agent.sock", budget_bytes=budget_bytes, listen=None, scrub_bytes_per_s=0))
    except BaseException:  # noqa: BLE001 - a forked child ends here, whatever happens
        traceback.print_exc()
    finally:
        os._exit(3)


def answered(socket: Path, method: str, path: str, body: Body) -> dict[str, object] | None:
    """The last line of the answer, {} for no content; None: it broke off before its end."""
    connection = UnixConnection(socket, timeout_s=30)
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body))
        response = connection.getresponse()
        lines = response.read().splitlines()
        assert response.status < 300, lines
        last: dict[str, object] = json.loads(lines[-1]) if lines else {}
        is_whole = "ndjson" not in (response.getheader("Content-Type") or "") or last["event"] in ("done", "error")
        return last if is_whole else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


@contextmanager
def running(top: Path, disk: CountingDisk, scenario: Scenario) -> Iterator[Path]:
    """Its socket, the disk armed. Killed at the end, if it is not dead."""
    socket, log = top / "store" / "agent.sock", top / "log"
    child = forked_agent(top, disk, scenario)
    try:
        wait_for(lambda: answered(socket, "GET", "/v1/status", None), timeout_s=30)
        os.kill(child, signal.SIGUSR1)
        assert answered(socket, "GET", "/v1/status", None)
        yield socket
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


def killed(top: Path, name: str, fatal: int) -> bool:
    """Ask a fresh agent that dies before its call number `fatal`, else right after its answer. True: it answered."""
    verb = VERBS[name]
    with running(top, KillingDisk(fatal, after=False), verb.scenario) as socket:
        said = answered(socket, name.split()[0], verb.path(top), verb.body(top))
        assert said is None or said.get("event") != "error", said
    return said is not None


def judge(top: Path, verb: Verb, acks: Acks) -> None:
    scenario = verb.scenario
    with Store.open(top / "store", own=True, budget_bytes=scenario.budget_bytes) as store:
        assert store.warnings == []
        known: dict[str, Mapping[str, bytes]] = {row.artifact: FILES for row in store.list()}
        known |= KNOWN
        check_invariants(top / "store", known, damaged=scenario.damaged, rotten=scenario.rotten)
        scenario.check(store, acks)


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_what_it_answered_is_done_and_whatever_it_leaves_is_whole(name: str, fast_path: Path) -> None:
    verb = VERBS[name]
    with Store.open(fast_path / "base", own=True) as store:
        verb.scenario.prepare(store)
    (fast_path / "archive.tar").write_bytes(archive_of(SMALL.contents, SMALL.manifest, SMALL.name))
    for fatal in range(MOST_STEPS):
        copied(fast_path / "base", fast_path / "store")
        write_folder(fast_path / "source", FILES)
        has_answered = killed(fast_path, name, fatal)
        try:
            judge(fast_path, verb, [verb.ack] if has_answered and verb.ack else [])
        except Exception as exc:
            exc.add_note(f"{name}, killed before call {fatal}, {'after' if has_answered else 'without'} an answer")
            raise
        if has_answered:
            break
    assert has_answered
    assert fatal, "it answered before it had done anything"


KINDS = {errno.EIO: "unavailable", errno.EROFS: "misconfigured", errno.ENOSPC: "full"}


@pytest.mark.slow
@pytest.mark.parametrize("number", KINDS, ids=errno.errorcode.get)
def test_a_disk_that_fails_is_one_clear_error_for_four_clients_and_the_agent_goes_on(number: int, fast_path: Path) -> None:
    write_folder(fast_path / "source", FILES)
    Store.open(fast_path / "base", own=True).close()
    heard = set[str]()
    for fatal in (1, 6, 15, 40):
        copied(fast_path / "base", fast_path / "store")
        with running(fast_path, FailingDisk(fatal, number), BRING) as socket, ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(answered, socket, "POST", "/v1/stage", {"ref": source(fast_path)}) for _ in range(4)]
            answers = [ask.result() for ask in asked]
            heard |= {str(answer["kind"]) for answer in answers if answer is not None and answer["event"] == "error"}
            assert None not in answers
            again = answered(socket, "POST", "/v1/stage", {"ref": source(fast_path)})
            assert again is not None
            assert again["event"] == "done", again
        judge(fast_path, VERBS["POST /v1/stage"], ["staged"])
    assert heard == {KINDS[number]}
