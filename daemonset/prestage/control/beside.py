"""What runs beside the planner, under its leadership: releases gates, labels nodes, tells pods. One World feeds all of it."""

from __future__ import annotations

import asyncio

from prestage.control.gates.loop import Gates
from prestage.control.gates.places import Places
from prestage.control.gates.world import World
from prestage.control.warmth.condition import Sources
from prestage.control.warmth.reporting import CONTROLLER, Warmth
from prestage.kube.events import Recorder
from prestage.kube.ports import Api


async def steer(api: Api, world: World, *, instance: str, sources: Sources | None = None, follow: bool = True) -> None:
    """For ever. `follow` False: the caller fills `world` (World.note) from Followers of his own. `instance`: the pod's name."""
    recorder = Recorder(api, controller=CONTROLLER, instance=instance)
    warmth = Warmth(api, world, recorder, sources or Sources())
    async with asyncio.TaskGroup() as group:
        if follow:
            group.create_task(world.follow(api))
        for service in (recorder, warmth, Places(api, world), Gates(api, world, retired=warmth.released)):
            group.create_task(service.run())
