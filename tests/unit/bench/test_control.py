"""`prestage bench control`: what pages of metrics come to, stand-ins on an API server in memory, and the table."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from prestage.bench.control import ControlJob, ControlResult, Phase, Steps, control_table, parts_of
from prestage.bench.control_agents import StandIns
from prestage.bench.control_metrics import Said, parsed, read
from prestage.bench.machine import Machine
from prestage.cacher.errors import Misconfigured, Unavailable
from prestage.control.asked import Asked
from prestage.kube.ports import Object, metadata_of
from prestage.kube.resources import NODE_CACHES
from prestage.kube.testing import FakeApi

MACHINE = Machine("cpu", 2, 2**30, "6", "linux", "3.11", "ext4", None, 1, 0.5)
ARTIFACT = "sha256:" + "a" * 64


def page(*, writes: int, reads: int = 7, slow: int = 0, quick: int = 0, rss: int = 1 << 20, questions: int = 0) -> Said:
    total = slow + quick
    return parsed(
        f"""
# TYPE prestage_api_requests counter
prestage_api_requests_total{{method="PATCH",resource="pods/status"}} {writes}
prestage_api_requests_total{{method="GET",resource="pods"}} {reads}
prestage_api_requests_total{{method="POST",resource="tokenreviews"}} 99
prestage_api_requests_total{{method="PUT",resource="leases"}} 99
prestage_api_requests_total{{method="POST",resource="leases"}} {questions}
# TYPE prestage_reaction_seconds histogram
prestage_reaction_seconds_bucket{{le="0.1",write="gate"}} {quick}
prestage_reaction_seconds_bucket{{le="1.0",write="gate"}} {total}
prestage_reaction_seconds_bucket{{le="+Inf",write="gate"}} {total}
prestage_reaction_seconds_count{{write="gate"}} {total}
# TYPE prestage_plan_seconds histogram
prestage_plan_seconds_count {total}
prestage_plan_seconds_sum {total / 4}
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes {rss}
"""
    )


def result(fill: Phase) -> ControlResult:
    alone = Phase(1.0, 1, {"planner": page(writes=0)}, {"planner": page(writes=0)})
    job = ControlJob("team", "hf://org/m{n}", {"planner": "http://here/metrics"}, nodes=3, pods=20, replicas=10)
    return ControlResult(job, MACHINE, "2026-01-01", fill, alone, (Steps(0.3, 0.2, 0.9), Steps(0.5, None, 1.1)))


def test_writes_are_what_is_stored_and_neither_reads_nor_reviews_nor_renewals() -> None:
    added = page(writes=60).since(page(writes=10))
    assert added.writes() == {"PATCH pods/status": 50}
    assert page(writes=0, questions=3).writes() == {"POST leases": 3}
    assert Phase(1.0, 20, {"planner": page(writes=10)}, {"planner": page(writes=60)}).writes_per_pod == 2.5


@pytest.mark.parametrize(("q", "bound"), [(0.5, 0.1), (0.98, 0.1), (0.99, 1.0)])
def test_a_quantile_is_never_better_than_what_was_observed(q: float, bound: float) -> None:
    assert page(writes=0, quick=98, slow=2).quantile("prestage_reaction_seconds", q, write="gate") == bound


def test_nothing_observed_has_no_quantile() -> None:
    assert page(writes=0).quantile("prestage_reaction_seconds", 0.5, write="gate") is None


def test_goals_are_met_or_missed_by_what_was_measured() -> None:
    good = Phase(3.0, 20, {"planner": page(writes=0)}, {"planner": page(writes=100, quick=100)})
    said = result(good).to_json()
    assert all(result(good).goals().values())
    assert json.loads(json.dumps(said))["fill"]["own"]["gate"] == {"p50": 0.1, "p99": 0.1, "count": 100}
    assert good.to_json()["plans"] == {"count": 100, "mean_s": 0.25}
    bad = Phase(3.0, 20, {"planner": page(writes=0)}, {"planner": page(writes=200, slow=100, rss=400 << 20)})
    missed = {goal for goal, met in result(bad).goals().items() if not met}
    assert missed == {"own time p99", "RSS", "writes a pod"}
    console = Console(width=160, record=True)
    console.print(control_table(result(bad)))
    text = console.export_text()
    assert "own time p99: missed" in text
    assert "20 pods running after 3.0 s; 10.00 API writes a pod; 0 refused" in text


@pytest.mark.parametrize("given", [["planner"], ["planner=here"], ["broker=http://x/metrics"], []])
def test_parts_are_pairs_and_the_planner_is_among_them(given: list[str]) -> None:
    with pytest.raises(Misconfigured):
        parts_of(given)


def test_a_part_that_does_not_answer_is_named() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9/metrics"):
        read("http://127.0.0.1:9/metrics")


def test_requests_are_told_by_method_and_resource() -> None:

    registry = CollectorRegistry()
    registry.register(Asked(Counter({("PATCH", "pods/status"): 3})))
    said = parsed(generate_latest(registry).decode())
    assert said.one("prestage_api_requests_total", method="PATCH", resource="pods/status") == 3


def cache(name: str, *staged: str) -> Object:
    listed = [{"digest": one, "action": "Stage", "priority": 1} for one in staged]
    head = {"name": name}
    return {
        "apiVersion": "prestage.dev/v1alpha1",
        "kind": "NodeCache",
        "metadata": head,
        "spec": {"nodeUID": "u", "artifacts": listed},
    }


def test_a_stand_in_reports_its_node_then_staging_then_warm_and_leaves_other_nodes_alone() -> None:
    async def test() -> None:
        api = FakeApi()
        for name in ("mine", "others"):
            await api.create(NODE_CACHES, cache(name))
        agents = StandIns(api, {"mine"}, stage_s=0.05, clock=asyncio.get_running_loop().time)
        running = asyncio.create_task(agents.run())
        states = list[str]()

        async def state() -> str:
            status = (await api.get(NODE_CACHES, "mine")).get("status")
            held = status.get("artifacts") if isinstance(status, dict) else None
            return str(held[0]["state"]) if held else ""

        async with asyncio.timeout(5):
            async with agents.told:
                await agents.told.wait_for(lambda: agents.reported == {"mine"})
            there = await api.get(NODE_CACHES, "mine")
            await api.replace(NODE_CACHES, {**cache("mine", ARTIFACT), "metadata": metadata_of(there)})
            while not states or states[-1] != "Warm":
                if (now := await state()) and now not in states:
                    states.append(now)
                await asyncio.sleep(0.005)
            async with agents.told:
                await agents.told.wait_for(lambda: ARTIFACT in agents.warm_at)
        assert states == ["Staging", "Warm"]
        assert agents.planned_at[ARTIFACT] + 0.05 <= agents.warm_at[ARTIFACT]
        assert "status" not in await api.get(NODE_CACHES, "others")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(test())
