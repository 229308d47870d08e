"""At rest the agent costs a node next to nothing, and a pod's start waits for it for milliseconds. Bounds are wide: the figures
are in docs/agent.md."""

from __future__ import annotations

import itertools
import statistics
import time

from agents import Agent

from servers import faults
from servers.hostile import Hostile

from .conftest import MODEL

REST_S = 5.0


def test_at_rest_it_uses_no_cpu_to_speak_of_and_little_memory(standing: Agent, origin: Hostile) -> None:
    standing.stage(origin.url(MODEL))
    time.sleep(1)
    before = standing.cpu_s()
    time.sleep(REST_S)
    assert standing.cpu_s() - before < 0.02 * REST_S
    assert standing.rss_bytes() < 150 << 20


def test_a_warm_ref_is_resolved_in_milliseconds(standing: Agent, origin: Hostile) -> None:
    url = origin.url("/small-0")
    standing.stage(url)
    times = []
    for _ in range(200):
        began = time.perf_counter()
        assert standing.ask("GET", "/v1/resolve", query={"ref": url}).status == 200
        times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.1


def test_progress_is_told_several_times_a_second(standing: Agent, origin: Hostile, data: bytes) -> None:
    origin.put("/slow", data)
    origin.choose = lambda request: faults.Drip(3e6) if request.method == "GET" else None
    at = []
    with standing.stream("POST", "/v1/stage", {"ref": origin.url("/slow")}) as events:
        for event in events:
            if event["event"] == "progress":
                at.append(time.monotonic())
    assert len(at) >= 4
    assert statistics.median(after - before for before, after in itertools.pairwise(at)) < 1
