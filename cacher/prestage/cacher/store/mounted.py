"""Trees that are for pods' mounts: what is there, and since when. They last until they are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.store.disk import disk_errors
from prestage.cacher.store.eviction import Parts
from prestage.cacher.store.holds import HoldId, boot_id
from prestage.cacher.store.trees import Tree


@dataclass(frozen=True, slots=True)
class MountTree:
    """One of them."""

    tree: Tree
    this_boot: bool
    """It was asked for since the machine was booted."""
    held_s: float


class Mounted:
    """Of one store. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @disk_errors()
    def all(self) -> Sequence[MountTree]:
        """Those that are there."""
        holds, found = self._parts.holds, []
        for tree in self._parts.trees.all():
            if tree.plan.mount is not None and tree.parts:
                document = holds.all(tree.parts[0].artifact).get(tree.hold, {})
                found.append(MountTree(tree, document.get("boot") == boot_id(), holds.held_s(document)))
        return found

    def path(self, hold: HoldId) -> Path:
        """Where the tree of a hold is, or would be."""
        return self._parts.layout.mount(hold)
