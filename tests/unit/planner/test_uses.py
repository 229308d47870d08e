"""Starts are counted as pods come to nodes; kinds that a cluster has not are waited for by nobody."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from planning.worlds import NOW, bound

from prestage.control.demand import world
from prestage.control.demand.world import World
from prestage.control.planning.uses import Uses
from prestage.kube.errors import Missing
from prestage.kube.ports import EVERYTHING, Page, Resource, Selection
from prestage.kube.resources import SCALED_OBJECTS
from prestage.kube.testing import FakeApi
from prestage.planner.demands import Demand


def of_web(*nodes: str) -> list[Demand]:
    return [replace(bound("a", *nodes), id="web")]


def test_a_pod_that_comes_is_a_start_and_those_that_were_there_first_are_none() -> None:
    uses = Uses()
    assert uses.look(of_web("n1"), NOW) == {}
    assert uses.look(of_web("n1"), NOW + 1) == {}
    assert uses.look(of_web("n1", "n2"), NOW + 2)["a"].weight == 1.0
    uses.look([], NOW + 3)
    assert uses.look(of_web("n1"), NOW + 2 + uses.worth.half_life_s)["a"].weight == pytest.approx(1.5)


class WithoutKeda(FakeApi):
    """Its kind comes later."""

    has_keda = False

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        if resource is SCALED_OBJECTS and not self.has_keda:
            raise Missing("no such kind")
        return await super().page(resource, selection, limit=limit, rest=rest)


def test_a_kind_of_others_is_waited_for_by_nobody_and_followed_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "LOOKING_S", 0.05)

    async def steps() -> None:
        api = WithoutKeda()
        there = World(api)
        task = asyncio.create_task(there.run())
        try:
            async with asyncio.timeout(5):
                await there.synced()
                assert there.unsynced == []
                api.has_keda = True
                body = {"metadata": {"name": "web", "namespace": "team"}, "spec": {"scaleTargetRef": {"name": "web"}}}
                await api.create(SCALED_OBJECTS, body)
                while there[SCALED_OBJECTS].get("web", "team") is None:
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(steps())
