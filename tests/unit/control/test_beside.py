"""As a service of the planner's leader: fed by its mirrors, told by its board, gone when it leads no longer."""

from __future__ import annotations

import asyncio

from pods.objects import DIGEST, GATE, artifact, node, node_cache, pod

from prestage.control.beside import past_of, steering
from prestage.control.demand.world import World
from prestage.control.gates.preference import PLACE_LABEL
from prestage.control.planning.app import SERVICES
from prestage.control.planning.board import Board
from prestage.control.planning.together import Together
from prestage.control.podspec import gates_of, part
from prestage.kube.events import Recorder
from prestage.kube.ports import Object, Resource, metadata_of
from prestage.kube.resources import ARTIFACTS, NODE_CACHES, NODES, PODS
from prestage.kube.testing import FakeApi
from prestage.planner.decisions import Because, Decided, Decision, Decisions


async def made(api: FakeApi, resource: Resource, one: Object) -> None:
    there = await api.create(resource, one)
    if "status" in one:
        await api.replace(resource, {**there, "status": one["status"]}, subresource="status")


def test_the_leader_steers_over_its_own_mirrors_and_the_next_term_begins_anew() -> None:
    assert steering in SERVICES

    async def test() -> None:
        api = FakeApi()
        await made(api, NODES, node("a", labelled=False))
        await made(api, NODE_CACHES, node_cache("a", {DIGEST: "Staging"}))
        await made(api, ARTIFACTS, artifact())
        world, board = World(api), Board()
        recorder = Recorder(api, controller="c", instance="i")
        following = asyncio.create_task(world.run())
        await world.synced()
        told = dict[str, list[float]]()
        together = Together(api, world, board, recorder, "prestage", reacted=lambda write: told.setdefault(write, []).append)
        for name in ("first", "second"):
            await made(api, PODS, pod(name=name, gpus=1, spec={"schedulingGates": [GATE]}))
            term = asyncio.create_task(steering(together))
            while PLACE_LABEL not in part(metadata_of(await api.get(NODES, "a")), "labels"):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert gates_of(await api.get(PODS, name, namespace="team-a")) == ["prestage.dev/warm"]
            await api.patch(
                NODE_CACHES, "a", {"status": {"artifacts": [{"digest": DIGEST, "state": "Warm"}]}}, subresource="status"
            )
            while gates_of(await api.get(PODS, name, namespace="team-a")):
                await asyncio.sleep(0.01)
            term.cancel()
            await asyncio.gather(term, return_exceptions=True)
            await api.patch(
                NODE_CACHES, "a", {"status": {"artifacts": [{"digest": DIGEST, "state": "Staging"}]}}, subresource="status"
            )
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert len(told["gate"]) == 2
        assert told.keys() == {"gate", "condition"}
        assert all(0 < seconds < 5 for seconds in (*told["gate"], *told["condition"]))

    asyncio.run(asyncio.wait_for(test(), 30))


def test_why_a_pod_was_cold_is_read_from_the_decision_log_as_it_grows_and_names_nobody_else() -> None:
    board = Board()
    past = past_of(board)
    assert past(DIGEST, "n1", "team-a", 100.0).endswith("the decision log is empty")
    board.decisions.add(Decision(1.0, Decided.WARM, DIGEST, ("n1",)))
    assert past(DIGEST, "n1", "team-a", 100.0) == ""
    board.decisions.add(Decision(50.0, Decided.GONE, DIGEST, ("n1",), because=Because.ROOM))
    board.decisions.add(Decision(60.0, Decided.STAGE, DIGEST, ("n1",), because="Pod", namespace="team-b", by="Deployment/theirs"))
    words = past(DIGEST, "n1", "team-a", 100.0)
    assert words.startswith("n1 had it until 1970-01-01T00:00:50Z: nothing in the plan kept it, and room was needed")
    assert words.endswith("n1 was told to stage it 40.0 s before the pod was made, for another namespace, by a pod")
    board.decisions.add(Decision(70.0, Decided.GONE, "", ("n2",), because=Because.NODE_GONE))
    board.decisions = Decisions([Decision(2.0, Decided.WARM, DIGEST, ("n1",))])
    assert past(DIGEST, "n1", "team-a", 100.0) == ""
