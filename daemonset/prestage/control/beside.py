"""What runs beside the planner, under its leadership: releases gates, labels nodes, tells pods. One World feeds all of it."""

from __future__ import annotations

import asyncio
import time

from prestage.api.brokerage import Refusal
from prestage.control.demand.records import Line
from prestage.control.gates.followed import FOLLOWED
from prestage.control.gates.loop import Gates
from prestage.control.gates.places import Places
from prestage.control.gates.world import World
from prestage.control.planning.board import Board
from prestage.control.planning.recalling import Stories, missed
from prestage.control.planning.together import UNMEASURED, Reacted, Together
from prestage.control.warmth.condition import Past, Refusals, Sources
from prestage.control.warmth.reporting import Warmth
from prestage.kube.events import Recorder
from prestage.kube.mirror import Appeared, Change, Synced
from prestage.kube.ports import Api, Resource
from prestage.kube.resources import LEASES


async def steer(
    api: Api, world: World, recorder: Recorder, sources: Sources | None = None, *, reacted: Reacted = UNMEASURED
) -> None:
    """For ever. The caller keeps `world` fed, and runs `recorder`."""
    warmth = Warmth(api, world, recorder, sources or Sources(), reacted=reacted("condition"))
    async with asyncio.TaskGroup() as group:
        for service in (warmth, Places(api, world), Gates(api, world, retired=warmth.released, reacted=reacted("gate"))):
            group.create_task(service.run())


async def steering(together: Together) -> None:
    """As a service of the planner's leader: its mirrors, its recorder, what its broker refused."""
    world = World(together.namespace, leading=True)
    fed = [world]  # emptied when we lead no longer: the planner's listeners stay for good

    def listen(resource: Resource, change: Change) -> None:
        if resource in FOLLOWED and fed:
            world.note(resource, change)

    together.world.listen(listen)
    try:
        for resource in FOLLOWED:
            if resource is not LEASES:
                world.mirrors[resource] = together.world[resource]
                for seen in world.mirrors[resource]:
                    world.note(resource, Appeared(seen))
            world.note(resource, Synced())
        await steer(
            together.api,
            world,
            together.recorder,
            Sources(_refusals(together.board), past_of(together.board)),
            reacted=together.reacted,
        )
    finally:
        fed.clear()


def _refusals(board: Board) -> Refusals:
    def refused(line: Line) -> Refusal | None:
        posted = board.last
        found = posted.failures.get(line) if posted else None
        if found is None:
            return None
        return Refusal(error_class=found.error_class, code=found.code, message=found.message, hint=found.hint)

    return refused


def past_of(board: Board) -> Past:
    """From the decision log; read anew when it is another one."""
    read, stories = (board.decisions, -1), Stories(())

    def past(artifact: str, node: str, namespace: str, made: float) -> str:
        nonlocal read, stories
        if read[0] is not board.decisions or read[1] != board.decisions.added:
            read, stories = (board.decisions, board.decisions.added), Stories(board.decisions)
        return "; ".join(missed(stories.of(artifact, namespace, time.time()), artifact, node, made))

    return past
