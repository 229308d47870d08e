"""Priorities, waiting listeners, pauses: whose stage goes on, whose stands, whose ends."""

from __future__ import annotations

from agents import Agent, wait_for

from servers import faults
from servers.answers import Request
from servers.hostile import Hostile

from .conftest import MODEL


def slowly(origin: Hostile, rate_bytes_per_s: float = 2e6) -> None:
    origin.choose = lambda request: faults.Drip(rate_bytes_per_s) if request.method == "GET" else None


def keep(agent: Agent, ref: str, **fields: object) -> str:
    """Its id."""
    name = agent.ask("POST", "/v1/stages", {"ref": ref, "keep": True, **fields}).good["id"]
    assert isinstance(name, str)
    return name


def test_leaving_takes_back_a_stage_that_nobody_else_waits_for(agent: Agent, origin: Hostile) -> None:
    slowly(origin)
    with agent.stream("POST", "/v1/stage", {"ref": origin.url(MODEL)}) as events:
        events.until("progress")
    ended = agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["state"] == "failed")
    assert "taken back" in ended["problem"]["message"]
    wait_for(lambda: not list((agent.root / "wishes").iterdir()))
    origin.choose = lambda request: None
    assert agent.stage(origin.url(MODEL))["event"] == "done"


def test_leaving_leaves_alone_what_another_waits_for_and_what_is_kept(agent: Agent, origin: Hostile, data: bytes) -> None:
    slowly(origin)
    with agent.stream("POST", "/v1/stage", {"ref": origin.url(MODEL)}) as stays:
        stays.until("progress")
        with agent.stream("POST", "/v1/stage", {"ref": origin.url(MODEL)}) as leaves:
            leaves.until("progress")
        agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["waiting"] == 1)
        origin.choose = lambda request: None
        assert stays.last()["event"] == "done"
    origin.put("/other", data)
    slowly(origin)
    with agent.stream("POST", "/v1/stage", {"ref": origin.url("/other"), "keep": True}) as leaves:
        leaves.until("progress")
    agent.wait_for_stage(origin.url("/other"), lambda stage: stage["waiting"] == 0)
    assert agent.stages()[origin.url("/other")]["state"] == "running"
    origin.choose = lambda request: None
    agent.wait_for_event("staged", ref=origin.url("/other"))


def test_a_waiting_pod_makes_the_declared_stage_it_needs_as_urgent_as_itself(agent: Agent, origin: Hostile) -> None:
    slowly(origin)
    keep(agent, origin.url(MODEL))
    agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["bytes"] > 0)
    with agent.stream("POST", "/v1/stage", {"ref": origin.url(MODEL), "priority": "waiting-pod"}) as events:
        events.until("resolved")
        assert agent.stages()[origin.url(MODEL)]["priority"] == "waiting-pod"
        origin.choose = lambda request: None
        assert events.last()["event"] == "done"


def test_a_waiting_pods_model_overtakes_a_declared_one(agent: Agent, origin: Hostile, data: bytes) -> None:
    """Both want all connections of one host: the pod's bytes come first."""
    origin.put("/pod", data)
    slowly(origin, 3e5)
    keep(agent, origin.url(MODEL))
    agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["bytes"] > 0)

    def pod_is_quick(request: Request) -> faults.Fault | None:
        return faults.Drip(3e5) if request.path == MODEL and request.method == "GET" else None

    origin.choose = pod_is_quick
    assert agent.stage(origin.url("/pod"), priority="waiting-pod")["event"] == "done"
    assert agent.stages()[origin.url(MODEL)]["state"] == "running"


def test_a_pause_of_all_stops_everything_but_what_a_pod_waits_for(agent: Agent, origin: Hostile) -> None:
    slowly(origin)
    keep(agent, origin.url(MODEL))
    agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["bytes"] > 0)
    assert agent.ask("POST", "/v1/pause").status == 204
    agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["state"] == "paused")
    keep(agent, origin.url("/small-0"))
    agent.wait_for_stage(origin.url("/small-0"), lambda stage: stage["state"] == "paused")
    assert agent.stage(origin.url("/small-1"), priority="waiting-pod")["event"] == "done"
    origin.choose = lambda request: None
    assert agent.stage(origin.url(MODEL), priority="waiting-pod")["event"] == "done", "a pod waits for a paused stage for ever"
    assert agent.stages()[origin.url("/small-0")]["state"] == "paused"
    assert agent.ask("POST", "/v1/resume").status == 204
    agent.wait_for_event("staged", ref=origin.url("/small-0"))


def test_a_kept_stage_is_tried_again_until_the_origin_is_back(agent: Agent, origin: Hostile) -> None:
    origin.choose = lambda request: faults.Garbage()
    ref = "http://127.0.0.1:1/nobody-listens"
    keep(agent, ref)
    waiting = agent.wait_for_stage(ref, lambda stage: stage["state"] == "waiting", timeout_s=120)
    assert waiting["tries"] >= 1
    assert agent.ask("DELETE", f"/v1/stages/{waiting['id']}").status == 204
    agent.wait_for_stage(ref, lambda stage: stage["state"] == "failed")
    origin.always.append(faults.Cut(after=0))
    origin.choose = lambda request: None
    keep(agent, origin.url(MODEL))
    agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["state"] == "waiting", timeout_s=120)
    assert "again" in str(agent.ask("GET", "/v1/explain", query={"ref": origin.url(MODEL)}).good["why"])
    origin.always.clear()
    agent.wait_for_event("staged", timeout_s=60, ref=origin.url(MODEL))


def test_a_stage_that_nobody_keeps_ends_with_what_was_wrong(agent: Agent) -> None:
    last = agent.stage("http://127.0.0.1:1/nobody-listens")
    assert (last["event"], last["kind"]) == ("error", "unavailable")


def test_a_queued_stage_can_be_taken_back_paused_and_urged(agent: Agent, origin: Hostile, data: bytes) -> None:
    """16 declared stages run at once; the 17th waits for its turn, but not to be told what to do."""
    slowly(origin, 4e3)
    for number in range(16):
        origin.put(f"/{number}", data[:200_000] + bytes([number]))
        keep(agent, origin.url(f"/{number}"))
    wait_for(lambda: sum(stage["state"] == "running" for stage in agent.stages().values()) == 16)
    for name in ("/small-0", "/small-1", "/small-2"):
        keep(agent, origin.url(name))
    views = agent.stages()
    assert {views[origin.url(f"/small-{number}")]["state"] for number in range(3)} == {"queued"}
    agent.ask("DELETE", f"/v1/stages/{views[origin.url('/small-0')]['id']}")
    agent.wait_for_stage(origin.url("/small-0"), lambda stage: stage["state"] == "failed")
    agent.ask("POST", f"/v1/stages/{views[origin.url('/small-1')]['id']}/pause")
    agent.wait_for_stage(origin.url("/small-1"), lambda stage: stage["state"] == "paused")
    assert agent.stage(origin.url("/small-2"), priority="waiting-pod")["event"] == "done"
    assert sum(stage["state"] == "running" for stage in agent.stages().values()) == 16
