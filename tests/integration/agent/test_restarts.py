"""An agent that ends, is killed or is replaced in the middle: nothing is fetched twice, nobody who waits is left behind."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import IO

import pytest
from agents import END_S, Agent, wait_for
from commands import Prestage

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.locks import gate, is_awaited, owner_of
from prestage.cacher.store.store import Store
from servers import faults
from servers.answers import Request
from servers.hostile import Hostile

from .conftest import MODEL

ONE_PIECE_AND_MORE = PIECE_BYTES + 8_000_000
"""One piece whole and its second of journal over, on one connection."""


def slowly(origin: Hostile, rate_bytes_per_s: float = 6e6) -> None:
    origin.choose = lambda request: faults.Drip(rate_bytes_per_s) if request.method == "GET" else None


def progress_beyond(lines: IO[str], size_bytes: int) -> None:
    """Read a command's events until it has fetched so much."""
    for line in lines:
        event = json.loads(line)
        if event["event"] == "progress" and event["bytes"] > size_bytes:
            return
    raise AssertionError("it ended before")


def assert_went_on(origin: Hostile, done: dict[str, object], data: bytes) -> None:
    """No journaled piece was asked for again."""
    by_source = done["bytes_by_source"]
    assert isinstance(by_source, dict)
    assert by_source["journal"] >= PIECE_BYTES
    assert by_source["journal"] + by_source["origin"] == len(data)
    assert all((request.range or (0, 0))[0] >= PIECE_BYTES for request in origin.gets(MODEL))
    assert (Path(str(done["path"])) / "model.safetensors").read_bytes() == data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_a_command_that_follows_goes_on_with_the_successor(
    number: signal.Signals, tmp_path: Path, origin: Hostile, data: bytes
) -> None:
    slowly(origin)
    with Agent(tmp_path / "store", "--connections", "1") as agent:
        following = agent.prestage.start("stage", origin.url(MODEL), "--json")
        assert following.stdout is not None
        progress_beyond(following.stdout, ONE_PIECE_AND_MORE)
        if number is signal.SIGTERM:
            assert agent.stop() < END_S
        else:
            agent.kill()
        origin.choose = lambda request: None
        origin.requests.clear()
        agent.start()
        out, err = following.communicate(timeout=120)
        assert following.returncode == 0, err
        assert_went_on(origin, json.loads(out.splitlines()[-1]), data)
        assert agent.ask("GET", "/v1/status").good["stages"] == []
        assert not list((agent.root / "wishes").iterdir())


def test_a_kept_stage_goes_on_by_itself_after_a_restart(tmp_path: Path, origin: Hostile, data: bytes) -> None:
    slowly(origin)
    with Agent(tmp_path / "store", "--connections", "1") as agent:
        agent.ask("POST", "/v1/stages", {"ref": origin.url(MODEL), "keep": True}).good  # noqa: B018 - it must be
        agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["bytes"] > ONE_PIECE_AND_MORE)
        agent.stop()
        origin.choose = lambda request: None
        origin.requests.clear()
        agent.start()
        staged = agent.wait_for_event("staged", timeout_s=60)
        assert staged["fetched_bytes"] <= len(data) - PIECE_BYTES
        assert all((request.range or (0, 0))[0] >= PIECE_BYTES for request in origin.gets(MODEL))
        path = Path(agent.ask("GET", "/v1/resolve", query={"ref": origin.url(MODEL)}).good["path"])
        assert (path / "model.safetensors").read_bytes() == data


def test_sigterm_ends_it_though_the_origin_says_nothing_at_all(tmp_path: Path, origin: Hostile) -> None:
    """A resolve that hangs in a thread cannot be told to stop; it must not keep the agent."""
    origin.choose = lambda request: faults.Stall(after=-1)
    with Agent(tmp_path / "store") as agent:
        agent.ask("POST", "/v1/stages", {"ref": origin.url(MODEL), "keep": True}).good  # noqa: B018 - it must be
        agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["state"] == "running")
        assert agent.stop() < END_S
        origin.choose = lambda request: None
        agent.start()
        agent.wait_for_event("staged", timeout_s=60)


def test_sigterm_ends_it_while_it_verifies_and_while_readers_listen(tmp_path: Path, origin: Hostile) -> None:
    with Agent(tmp_path / "store") as agent:
        agent.stage(origin.url(MODEL))
        with agent.stream("GET", "/v1/events") as events:
            next(iter(events), None)
            verifying = [agent.prestage.start("verify", "--json") for _ in range(2)]
            assert agent.stop() < END_S
        agent.start()
        for process in verifying:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert json.loads(out)["bad"] == []


def test_the_command_that_owns_the_store_makes_way_for_an_agent_and_ends_by_it(
    tmp_path: Path, origin: Hostile, data: bytes
) -> None:
    def never_whole(request: Request) -> faults.Fault | None:
        """However long the agent takes to start, the command is still at it."""
        if request.method != "GET":
            return None
        return faults.Stall(after=0) if request.range is not None and request.range[0] >= 2 * PIECE_BYTES else faults.Drip(6e6)

    origin.choose = never_whole
    prestage = Prestage(tmp_path / "store", {"NO_COLOR": "1"})
    command = prestage.start("stage", origin.url(MODEL), "--connections", "1", "--json")
    assert command.stdout is not None
    progress_beyond(command.stdout, ONE_PIECE_AND_MORE)
    origin.requests.clear()
    with Agent(tmp_path / "store") as agent:
        origin.choose = lambda request: None
        out, err = command.communicate(timeout=120)
        assert command.returncode == 0, err
        events = [json.loads(line) for line in out.splitlines()]
        assert any("agent takes over" in str(event.get("message")) for event in events)
        assert_went_on(origin, events[-1], data)
        assert agent.stages()[origin.url(MODEL)]["state"] == "done"


def test_sigterm_ends_it_while_it_waits_for_a_store_that_another_process_keeps(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "store")
    with Store.open(agent.root, own=True):
        agent.launch()
        wait_for(lambda: is_awaited(agent.root))
        assert agent.stop() < 10
    with agent:  # nothing of it is in the way of the next one
        assert agent.ask("GET", "/v1/status").good["ready"]


def test_sigterm_ends_it_while_it_recovers_the_store(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "store")
    with agent:
        pass
    with gate(Layout(agent.root).gate):  # whoever recovers passes through it, and waits for half a minute
        agent.launch()
        wait_for(lambda: owner_of(agent.root) is not None)
        assert agent.stop() < END_S
        assert agent.events()[-1]["cut_off"] is True
    with agent:
        assert agent.ask("GET", "/v1/status").good["ready"]


def test_a_second_agent_is_refused_by_name_and_the_first_goes_on(agent: Agent, origin: Hostile) -> None:
    second = agent.prestage("agent", "--listen", "none")
    assert second.code == 6
    assert f"process {agent.pid} is the agent" in second.err
    assert agent.stage(origin.url("/small-0"))["event"] == "done"


def test_what_an_agent_cannot_listen_on_is_told_on_one_line(agent: Agent, tmp_path: Path) -> None:
    other = Prestage(tmp_path / "other", {"NO_COLOR": "1"})
    taken = other("agent", "--socket", str(agent.socket), "--listen", "none")
    assert taken.code == 2
    assert "listens" in taken.err
    metrics = agent.ask("GET", "/v1/status").good["metrics"]
    taken = other("agent", "--listen", metrics)
    assert taken.code == 2
    assert metrics in taken.err
    long = other("agent", "--socket", f"/tmp/{'a' * 120}")
    assert long.code == 2
    assert "107" in long.err
    assert agent.ask("GET", "/v1/status").status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_a_paused_stage_and_a_pause_of_all_last_over_a_restart(number: signal.Signals, tmp_path: Path, origin: Hostile) -> None:
    slowly(origin, 5e5)
    with Agent(tmp_path / "store") as agent:
        view = agent.ask("POST", "/v1/stages", {"ref": origin.url(MODEL), "keep": True}).good
        small = origin.url("/small-0")
        assert agent.prestage("pause", view["id"]).code == 0
        assert agent.prestage("pause").code == 0
        agent.ask("POST", "/v1/stages", {"ref": small, "keep": True}).good  # noqa: B018 - it must be
        agent.stop() if number is signal.SIGTERM else agent.kill()
        agent.start()
        assert agent.ask("GET", "/v1/status").good["paused"]
        for ref in (origin.url(MODEL), small):
            agent.wait_for_stage(ref, lambda stage: stage["state"] == "paused")
        assert agent.prestage("resume").code == 0
        agent.wait_for_event("staged", ref=small)
        assert agent.stages()[origin.url(MODEL)]["state"] == "paused", "the pause of one ended with the pause of all"
        origin.choose = lambda request: None
        assert agent.prestage("resume", view["id"]).code == 0
        agent.wait_for_event("staged", ref=origin.url(MODEL))
        agent.stop()
        agent.start()
        assert agent.stages() == {}, "what was done is done again"


def test_a_stage_that_is_not_kept_stays_so_over_a_restart(tmp_path: Path, origin: Hostile) -> None:
    slowly(origin, 5e5)
    with Agent(tmp_path / "store") as agent:
        agent.ask("POST", "/v1/stages", {"ref": origin.url(MODEL)}).good  # noqa: B018 - it must be
        agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["bytes"] > 0)
        agent.kill()
        agent.start()
        stage = agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["state"] == "running")
        assert not stage["keep"]
        with agent.stream("GET", f"/v1/stages/{stage['id']}") as events:
            events.until("progress")
        agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["state"] == "failed")


def test_commands_at_once_without_an_agent_are_not_in_each_others_way(tmp_path: Path, origin: Hostile) -> None:
    """Who only looks at the lock must not make who takes it fail."""
    prestage = Prestage(tmp_path / "store", {"NO_COLOR": "1"})
    assert prestage("stage", origin.url("/small-0")).code == 0
    lookers = [prestage.start("why", origin.url("/small-0")) for _ in range(3)]
    assert prestage("verify").code == 0
    for looker in lookers:
        _, err = looker.communicate(timeout=60)
        assert looker.returncode == 3, err
    began = time.monotonic()
    assert prestage("evict", origin.url("/small-0")).code == 0
    assert time.monotonic() - began < 60


def test_who_stages_while_all_is_paused_is_told_so_and_how_to_go_on(tmp_path: Path, origin: Hostile) -> None:
    with Agent(tmp_path / "store") as agent:
        assert agent.prestage("pause").code == 0
        agent.kill()
        agent.start()
        with agent.prestage.start("stage", origin.url(MODEL)) as staging:
            assert staging.stderr is not None
            assert "prestage resume" in staging.stderr.readline()
            assert agent.prestage("resume").code == 0
            assert staging.wait(60) == 0


def test_why_something_went_is_told_over_a_kill_by_its_ref_too(tmp_path: Path, origin: Hostile) -> None:
    url = origin.url("/small-0")
    with Agent(tmp_path / "store") as agent:
        assert agent.stage(url)["event"] == "done"
        assert agent.ask("POST", "/v1/evict", {"ref": url}).status == 200
        wait_for(lambda: b'"evicted"' in (tmp_path / "store" / "decisions" / "now").read_bytes())
        agent.kill()
        agent.start()
        said = agent.prestage("why", url)
        assert "it was staged at 20" in said.out
        assert "it was evicted at 20" in said.out
        assert said.out.rstrip().endswith("by hand")
        found = agent.ask("GET", "/v1/explain", query={"ref": url}).good
        assert (found["state"], [one["event"] for one in found["history"]]) == ("absent", ["staged", "evicted"])
