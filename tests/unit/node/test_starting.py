"""The startup taint: taken off once the node is filled, or when its time is over, whatever happens."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.api.nodes import Action, PlannedArtifact
from prestage.cacher.digests import ArtifactId
from prestage.kube.errors import Forbidden, Missing, Unreachable
from prestage.kube.ports import EVERYTHING, Object, Page, Resource, Selection
from prestage.kube.resources import NODES, STORE_POOLS
from prestage.kube.testing import FakeApi
from prestage.node.plan import Plan
from prestage.node.starting import DEFAULT_S, KNOWN_S, Filling, Starting, is_filled, lacking, made_at, most_s, others
from prestage.node.sync import NodeSettings, NodeSync
from prestage.wire.broker_client import BrokerClient

OURS = {"key": "prestage.dev/starting", "effect": "NoSchedule"}
THEIRS = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
A, B = (ArtifactId(f"sha256:{digit * 64}") for digit in "ab")
QUICK = (0.01, 0.05)


def plan(*digests: str, action: Action = Action.STAGE, ready_by: datetime.datetime | None = None) -> Plan:
    return Plan({ArtifactId(one): PlannedArtifact(digest=one, action=action, ready_by=ready_by) for one in digests})


def known(plan: Plan, *whole: ArtifactId) -> Filling:
    """The planner has known the node for long."""
    return Filling(plan, is_current=True, known_s=time.monotonic() - KNOWN_S - 1, whole=frozenset(whole))


def pool(max_seconds: int | None, **labels: str) -> Object:
    taint = {"startupTaint": {"maxSeconds": max_seconds}} if max_seconds is not None else {}
    spec = {"nodeSelector": {"matchLabels": labels}, "root": "/mnt/a", **taint}
    return {"apiVersion": "prestage.dev/v1alpha1", "kind": "StorePool", "metadata": {"name": f"p{max_seconds}"}, "spec": spec}


async def cluster(api: FakeApi, *taints: object, max_seconds: int = 600) -> None:
    await api.create(STORE_POOLS, pool(max_seconds))
    await api.create(NODES, {"metadata": {"name": "n1", "labels": {"gpu": "h100"}}, "spec": {"taints": list(taints)}})
    api.writes.clear()


async def taints(api: FakeApi) -> object:
    return cast("dict[str, object]", (await api.get(NODES, "n1"))["spec"]).get("taints")


def starting(look: Callable[[], Filling], now: Callable[[], float] = time.time) -> Starting:
    return Starting("n1", look, now=now, again_s=QUICK)


def run(steps: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(cast("asyncio.Future[None]", steps()), 30))


def test_the_taint_goes_once_what_is_to_be_staged_is_there_and_others_stay() -> None:
    async def steps() -> None:
        api, seen = FakeApi(), known(plan(A, B), A)
        await cluster(api, THEIRS, OURS, {**OURS, "effect": "NoExecute"})
        task = asyncio.ensure_future(starting(lambda: seen).run(api))
        await asyncio.sleep(0.05)
        assert await taints(api) == [THEIRS, OURS, {**OURS, "effect": "NoExecute"}]
        seen = known(plan(A, B), A, B)
        await task
        assert await taints(api) == [THEIRS]
        assert [verb for verb, _ in api.writes] == ["patch"]

    run(steps)


def test_a_node_without_the_taint_is_read_once_and_left_alone() -> None:
    async def steps() -> None:
        api = FakeApi()
        await cluster(api, THEIRS)
        await starting(Filling).run(api)
        assert (await taints(api), api.writes) == ([THEIRS], [])

    run(steps)


def test_it_goes_when_its_time_is_over_though_no_plan_ever_came() -> None:
    async def steps() -> None:
        api = FakeApi()
        await cluster(api, OURS)
        began = time.time()
        late = starting(Filling, lambda: began + 601)  # another agent began before us: the Node's own making counts
        await late.run(api)
        assert await taints(api) is None

    run(steps)


def test_it_stays_until_then_over_restarts_of_the_agent() -> None:
    async def steps() -> None:
        api = FakeApi()
        await cluster(api, OURS)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(starting(lambda: known(plan(A))).run(api), 0.05)
        assert (await taints(api), api.writes) == ([OURS], [])

    run(steps)


def test_a_clock_that_is_behind_keeps_it_no_longer_than_we_wait_ourselves() -> None:
    async def steps() -> None:
        api = FakeApi()
        await cluster(api, OURS, max_seconds=1)
        began_s = time.monotonic()
        await starting(Filling, lambda: 0.0).run(api)
        assert await taints(api) is None
        assert time.monotonic() - began_s >= 1

    run(steps)


def test_an_api_server_that_is_away_or_forbids_is_asked_again_until_it_is_done() -> None:
    async def steps() -> None:
        api = FakeApi()
        await cluster(api, OURS)
        api.fail = [Unreachable("away"), Forbidden("no"), Unreachable("away")]
        await starting(lambda: known(plan())).run(api)
        assert (await taints(api), api.fail) == (None, [])

    run(steps)


class Meddled(FakeApi):
    """Somebody writes another taint right after we looked, a few times."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle = 0

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None) -> Object:
        seen = await super().get(resource, name, namespace=namespace, subresource=subresource)
        if resource == NODES and self.meddle > 0:
            self.meddle -= 1
            there = cast("list[object]", cast("dict[str, object]", seen["spec"])["taints"])
            await self.patch(NODES, name, {"spec": {"taints": [*there, {"key": f"k{self.meddle}", "effect": "NoSchedule"}]}})
        return seen


def test_what_others_put_on_the_node_in_the_same_moment_stays() -> None:
    async def steps() -> None:
        api = Meddled()
        await cluster(api, OURS)
        api.meddle = 4
        await starting(lambda: known(plan())).run(api)
        left = cast("list[dict[str, str]]", await taints(api))
        assert {one["key"] for one in left} == {"k0", "k1", "k2", "k3"}

    run(steps)


class WithoutPools(FakeApi):
    """The CRDs are not there."""

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        if resource == STORE_POOLS:
            raise Missing("list storepools: the server could not find the requested resource")
        return await super().page(resource, selection, limit=limit, rest=rest)


def test_it_goes_in_time_where_the_cluster_has_no_storepools_at_all() -> None:
    async def steps() -> None:
        api = WithoutPools()
        await cluster(api, THEIRS, OURS)
        began = time.time()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(starting(Filling, lambda: began + DEFAULT_S - 10).run(api), 0.05)
        assert await taints(api) == [THEIRS, OURS]
        await starting(Filling, lambda: began + DEFAULT_S + 2).run(api)
        assert await taints(api) == [THEIRS]

    run(steps)


def test_a_node_that_is_gone_is_nobodys_trouble() -> None:
    run(lambda: starting(Filling).run(FakeApi()))


def test_what_nobody_planned_yet_is_not_filled() -> None:
    now_s, ends_at = time.monotonic(), time.time() + 60
    assert is_filled(known(plan()), ends_at, now_s + 1)
    assert not is_filled(Filling(plan(), is_current=True, known_s=now_s), ends_at, now_s), "it was told of us just now"
    assert not is_filled(Filling(plan(), is_current=True), ends_at, now_s), "no report of ours is there"
    kept = Filling(plan(A), is_current=False, known_s=now_s - KNOWN_S, whole=frozenset([A]))
    assert not is_filled(kept, ends_at, now_s), "a plan of before the restart"
    assert is_filled(known(plan(A, action=Action.KEEP)), ends_at, now_s + 1), "what is kept is there"


def test_images_are_waited_for_by_the_word_of_their_container(tmp_path: Path) -> None:
    sync = NodeSync(NodeSettings(tmp_path, "n1", tmp_path / "token"), cast("BrokerClient", None))
    image: dict[str, object] = {"digest": A, "type": "Image"}
    spec = {"nodeUID": "u", "plan": "p", "artifacts": [{**image, "action": "Stage"}, {"digest": B, "action": "Keep"}]}

    def lacks(*told: object) -> list[str]:
        seen = {"metadata": {"name": "n1"}, "spec": spec, "status": {"artifacts": list(told)}}
        kind = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache"}
        asyncio.run(sync._read({**kind, **seen}))
        return [one.digest for one in lacking(sync._filling(), time.time())]

    assert lacks() == [A]
    assert lacks({**image, "state": "Staging"}) == [A]
    assert lacks({"digest": A, "state": "Warm"}) == [A], "a model of that name is another thing"
    assert lacks({**image, "state": "Warm"}) == []


def test_what_is_wanted_only_later_keeps_no_pod_away() -> None:
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    ends_at = time.time() + 60
    assert lacking(known(plan(A, ready_by=tomorrow)), ends_at) == []
    assert [one.digest for one in lacking(known(plan(A, ready_by=tomorrow)), tomorrow.timestamp())] == [A]
    assert [one.digest for one in lacking(known(plan(A, B), A), ends_at)] == [B]


def test_the_least_of_the_pools_that_select_the_node_counts() -> None:
    node: Object = {"metadata": {"name": "n1", "labels": {"gpu": "h100", "zone": "a"}}}
    assert most_s(node, [pool(300), pool(200, gpu="h100"), pool(100, gpu="l4"), pool(None)]) == 200
    assert most_s(node, [pool(100, gpu="l4"), pool(None), {"spec": "?"}]) == DEFAULT_S


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["spec", "taints", "key", "metadata"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["spec", "metadata", "status"]), JSON))
def test_a_node_of_any_form_is_read_without_a_crash(node: dict[str, object]) -> None:
    left = others(node)
    assert left is None or all(one.get("key") != OURS["key"] for one in left if isinstance(one, dict))
    made = made_at(node)
    assert made is None or isinstance(made, float)
    assert most_s(node, [node]) == DEFAULT_S
