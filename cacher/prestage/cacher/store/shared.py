"""What pods with equal volumes see, composed once: trees/<key>/, bound read-only under each of them.

    .new-<key> -> renamed                 by the first pod that asks: composed, or one that no pod shows and that has another name
    renamed to .gone-<key> -> removed     with its artifact, or as one of many that no pod shows

Invariants: one is complete or absent; nothing in it tells of a pod; none is there whose artifact could be evicted, but for those
that a pod shows. It ends with the boot, as mounts do: not synced, and looked at when a store is opened after another boot.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Corrupt, NotFound, PrestageError
from prestage.cacher.store.building import Builder
from prestage.cacher.store.composing import (
    RECORD,
    SIDE,
    Plan,
    differ_by_name,
    key_of,
    parse_boot,
    parse_record,
    shared_leaves,
    shared_record,
)
from prestage.cacher.store.disk import Disk, make_directories, new_file, remove_tree
from prestage.cacher.store.holds import boot_id
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.views import GONE, NEW

KEY = re.compile(r"[0-9a-f]{64}")
SPARE_MAX = 32
"""Kept though no pod shows them, for the next one: they take no room but for names."""


@dataclass(frozen=True, slots=True)
class SharedTree:
    """One of them."""

    key: str
    path: Path
    plan: Plan
    """Without parts: its account of itself is damaged."""
    boot: str


class SharedTrees:
    """Of one store. Every call is to be made inside the gate. `shown`: what pods show, by key."""

    def __init__(self, layout: Layout, disk: Disk, builder: Builder) -> None:
        self._layout, self._disk, self._builder = layout, disk, builder

    def path(self, plan: Plan) -> Path:
        """Where that of a plan is, or would be."""
        return self._layout.shared(key_of(plan))

    def make(self, plan: Plan, shown: Callable[[], Collection[str]]) -> Path:
        """It is there on return.

        Raises:
            NotFound, Corrupt: an artifact is not staged, or damaged.
        """
        path = self.path(plan)
        self._builder.check(plan)
        if not path.is_dir():
            make_directories(self._disk, self._layout.trees, above=self._layout.root)
            new = self._layout.trees / f"{NEW}{path.name}"
            try:
                remove_tree(self._disk, new)  # what a killed process left
                if (like := self._like(plan, shown)) is not None:
                    self._rename(like, plan, new)
                else:
                    leaves = shared_leaves(plan, self._builder.contents(plan, said=True), boot=boot_id())
                    self._builder.build(new, leaves, synced=False)
                self._disk.rename(new, path)
            except BaseException:
                with suppress(PrestageError, OSError):
                    remove_tree(self._disk, new)
                raise
        with suppress(PrestageError):
            self._disk.touch(path, time.time())
        return path

    def is_ready_for(self, artifact: ArtifactId, shown: Collection[str]) -> bool:
        """There is one of this artifact alone that no pod shows."""
        idle = (tree.plan.parts for tree in self.all() if tree.key not in shown)
        return any(len(parts) == 1 and parts[0].artifact == artifact for parts in idle)

    def _like(self, plan: Plan, shown: Callable[[], Collection[str]]) -> SharedTree | None:
        """One that no pod shows, and that differs from `plan` by the folder's name at most."""
        if differ_by_name(plan, plan):
            used = shown()
            for tree in self.all():
                if tree.key not in used and differ_by_name(tree.plan, plan):
                    return tree
        return None

    def _rename(self, like: SharedTree, plan: Plan, new: Path) -> None:
        self._disk.rename(like.path, new)
        for folder in (new, new / SIDE):
            self._disk.set_mode(folder, 0o755)
        if (before := new / like.plan.parts[0].name) != (after := new / plan.parts[0].name):
            self._disk.rename(before, after)
        self._disk.unlink(new / RECORD)
        new_file(self._disk, new / RECORD, shared_record(plan, like.boot), synced=False)
        self._builder.seal((new, new / SIDE), synced=False)

    def all(self) -> Iterator[SharedTree]:
        """Those that are there."""
        with suppress(FileNotFoundError):
            for path in sorted(self._layout.trees.iterdir()):
                if KEY.fullmatch(path.name):
                    raw = _account(path)
                    plan = parse_record(raw)
                    right = plan is not None and key_of(plan) == path.name
                    yield SharedTree(path.name, path, plan if plan is not None and right else Plan(()), parse_boot(raw))

    def sweep(self, shown: Collection[str]) -> None:
        """Leftovers of what was cut off, and those beyond the spare ones, longest unused first."""
        with suppress(FileNotFoundError):
            for path in sorted(self._layout.trees.iterdir()):
                if path.name.startswith((NEW, GONE)):
                    remove_tree(self._disk, path)
        idle = [tree for tree in self.all() if tree.key not in shown]
        for tree in sorted(idle, key=lambda tree: tree.path.stat().st_mtime)[:-SPARE_MAX]:
            self._remove(tree)

    def remove_showing(self, artifact: ArtifactId, shown: Collection[str]) -> None:
        """What is evicted must be in none."""
        for tree in list(self.all()):
            if tree.key not in shown and (not tree.plan.parts or any(part.artifact == artifact for part in tree.plan.parts)):
                self._remove(tree)

    def _remove(self, tree: SharedTree) -> None:
        gone = self._layout.trees / f"{GONE}{tree.key}"
        self._disk.rename(tree.path, gone)
        remove_tree(self._disk, gone)

    def renew(self, bound: Collection[str]) -> None:
        """Of an earlier boot only what the end of that left whole stays; what may be `bound` (keys) is healed instead. For an
        owner that starts."""
        for tree in list(self.all()):
            if tree.boot != boot_id() and not self._is_right(tree) and (tree.boot or tree.key not in bound):
                self._remove(tree)

    def _is_right(self, tree: SharedTree) -> bool:
        if not tree.plan.parts:
            return False
        try:
            leaves = shared_leaves(tree.plan, self._builder.contents(tree.plan), boot=tree.boot)
        except (NotFound, Corrupt):
            return False
        return self._builder.is_right(tree.path, leaves)

    def heal(self, shown: Mapping[str, Plan], blobs: Collection[BlobId] | None = None) -> None:
        """Put right what is not as it should be, as far as the bytes are here; with `blobs`, only what shows one of these."""
        for tree in list(self.all()):
            plan = tree.plan if tree.plan.parts else shown.get(tree.key, tree.plan)
            if not plan.parts:
                self._remove(tree)
            elif blobs is None or self._builder.shows(plan, blobs):
                self._put_right(tree, plan)

    def _put_right(self, tree: SharedTree, plan: Plan) -> None:
        boot, builder = tree.boot or boot_id(), self._builder
        try:
            if builder.is_whole(plan):
                leaves = shared_leaves(plan, builder.contents(plan), boot=boot)
            else:
                leaves = builder.present(shared_leaves(plan, builder.known(plan), boot=boot, verifiable=False))
        except (NotFound, Corrupt, KeyError):
            return  # a manifest, binding or meta is damaged: staging it again writes it, and heals again
        builder.put_right(tree.path, leaves)


def _account(path: Path) -> bytes:
    try:
        return (path / RECORD).read_bytes()
    except OSError:
        return b""
