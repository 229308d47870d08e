"""Puts our label on nodes: what preferences name (preference.py). One write in a node's life, under the planner's leadership."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from prestage.cacher.errors import PrestageError
from prestage.control.gates.preference import PLACE_LABEL, place, place_of
from prestage.control.gates.world import World
from prestage.kube.errors import Missing
from prestage.kube.ports import Api, Object, name_of, uid_of
from prestage.kube.resources import NODES

_log = logging.getLogger("prestage")
_RETRY_S = 10.0


@dataclass(slots=True)
class Places:
    """Only nodes that have a NodeCache: others are never warm."""

    api: Api
    world: World

    async def run(self) -> None:
        """For ever."""
        woken = self.world.subscription()
        while True:
            done = [await self._label(node) for node in self.unlabelled()]
            if not all(done):
                await asyncio.sleep(_RETRY_S)
                continue
            await woken.wait()
            woken.clear()
            await asyncio.sleep(0.2)

    def unlabelled(self) -> list[Object]:
        """Without the label, or with another's."""
        return [node for node in self.world.nodes() if place_of(node) is None and name_of(node) in self.world.holdings()]

    async def _label(self, node: Object) -> bool:
        labels = {"metadata": {"uid": uid_of(node), "labels": {PLACE_LABEL: place(node)}}}
        try:
            await self.api.patch(NODES, name_of(node), labels)
        except Missing:
            return True
        except PrestageError as exc:
            _log.warning("node_not_labelled", extra={"fields": {"node": name_of(node), "why": str(exc)}})
            return False
        return True
