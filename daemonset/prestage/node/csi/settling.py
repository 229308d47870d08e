"""Holds of mounts against the mount table: what is bound nowhere any more is let go of.

of this boot       once its target is gone, and it was asked for longer ago than a publish lasts
of an earlier one  once the machine has run for ten minutes: the kubelet mounts again what it had, and it finds its tree

A hold goes in its target's turn, after another look: its pod may have been published since the first.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from prestage.cacher.agent.logs import log
from prestage.cacher.agent.messages import TreeView
from prestage.cacher.errors import PrestageError
from prestage.node.csi.mountinfo import MountPoint, mount_table

PUBLISH_S = 180.0
"""A publish lasts two minutes at most."""
REBOOT_S = 600.0
EVERY_S = 60.0


def to_drop(
    trees: Iterable[TreeView], table: Iterable[MountPoint], uptime_s: float, *, is_there: Callable[[str], bool]
) -> list[TreeView]:
    """Trees that nobody needs any more. Pure. `is_there` tells whether a target is: while it is, the kubelet is not
    done with it, and a mount table that does not show it may be another's than the kubelet's."""
    bound = {point.hold for point in table}

    def is_over(tree: TreeView) -> bool:
        if not tree.this_boot:
            return uptime_s > REBOOT_S
        return tree.held_s > PUBLISH_S and not is_there(tree.target)

    return [tree for tree in trees if tree.hold not in bound and is_over(tree)]


class Agent(Protocol):
    """The part of `AgentClient` that is used here."""

    async def trees(self) -> list[TreeView]:
        """Those of all mounts."""
        ...

    async def drop(self, hold: str) -> None:
        """Let go."""
        ...


Turn = Callable[[str], AbstractAsyncContextManager[None]]
"""`Publisher.turn`: while it is ours, nobody publishes at that target."""


async def settle(agent: Agent, turn: Turn) -> list[str]:
    """Once: what was let go of."""
    gone = list[str]()
    for tree in await _looked(agent):
        async with turn(tree.target):
            if tree.hold in {one.hold for one in await _looked(agent)}:
                await agent.drop(tree.hold)
                log("mount_let_go", fields={"hold": tree.hold})
                gone.append(tree.hold)
    return gone


async def _looked(agent: Agent) -> list[TreeView]:
    trees = await agent.trees()
    table = await asyncio.to_thread(mount_table)
    return to_drop(trees, table, time.clock_gettime(time.CLOCK_BOOTTIME), is_there=os.path.lexists)


async def keep_settled(agent: Agent, turn: Turn) -> None:
    """Until cancelled."""
    told = ""
    while True:
        try:
            await settle(agent, turn)
            told = ""
        except PrestageError as exc:
            if told != exc.message:
                log("not_settled", fields={"message": exc.message})
            told = exc.message
        await asyncio.sleep(EVERY_S)
