"""Trees: artifacts put together for one client under mounts/<hold id>/, to be used as they are or bound read-only.

    under the gate:   holds -> .new-<hold>, synced -> renamed      made
                      renamed to .gone-<hold> -> holds -> removed  let go

A pod's tree is one that it shares with every pod of an equal volume (`shared.py`), and under its hold what is its own: to be
bound over the other's `.prestage/`.

Invariants: a tree is complete or absent, and lives as long as its hold. Nothing in it leads out of it. Its files are hardlinks:
they take no room, and none is there whose artifact could be evicted. Any process of the store's user makes and drops trees;
the owner heals them, file by file, by a rename over what is wrong: whoever has that mapped keeps it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Corrupt, Misconfigured, NotFound, PrestageError
from prestage.cacher.store.artifacts import Artifacts
from prestage.cacher.store.building import Builder
from prestage.cacher.store.composing import (
    HUB,
    OWN_RECORD,
    RECORD,
    Part,
    Plan,
    check_plan,
    key_of,
    leaves_of,
    own_links,
    own_record,
    parse_record,
)
from prestage.cacher.store.disk import Disk, make_directories, new_file, remove_tree
from prestage.cacher.store.holds import HoldId, Holds, Kind, Mount, boot_id
from prestage.cacher.store.hub_layout import Leaves
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.shared import SharedTrees
from prestage.cacher.store.views import GONE, NEW, Views

HOLD = re.compile(r"[a-z]+-[0-9a-f]{16}")
"""What a tree's folder is called."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A client's tree."""

    hold: HoldId
    path: Path
    """Absolute."""
    plan: Plan
    own: Path | None = None
    """Of a pod: what is its own, to be seen over the `.prestage/` of what it shares with others. None: there is but `path`."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it is of; none: its account of itself is damaged."""
        return self.plan.parts

    @property
    def hub(self) -> Path | None:
        """What HF_HUB_CACHE is to be; None: no part of it is shown as a repository."""
        return self.path / HUB if any(part.repo is not None for part in self.parts) else None


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long a tree is held: see `Store.hold`."""

    kind: Kind
    expires_at: float | None = None
    pid: int | None = None
    note: str = ""
    mount: Mount | None = None
    """Of a mount."""


class Trees:
    """The trees of one store. Every call but `all` and `get` is to be made inside the gate, by one thread at a time."""

    def __init__(self, layout: Layout, disk: Disk, artifacts: Artifacts, builder: Builder, views: Views, holds: Holds) -> None:
        self._layout, self._disk, self._artifacts, self._builder = layout, disk, artifacts, builder
        self._views, self._holds = views, holds
        self._shared = SharedTrees(layout, disk, builder)

    def make(self, parts: Sequence[Part], terms: Terms, *, is_flat: bool = False) -> Tree:
        """Hold the artifacts of `parts` and put them together. Durable on return; on failure nothing is left. One mount has one
        tree: that which its target had, if it is the same, else it goes. Of a mount only the holds are durable: it ends with the
        boot, and what a power cut took from its tree is made again (`renew`).

        Raises:
            Misconfigured: parts that do not go together.
            NotFound: one is not staged.
            Corrupt: one is damaged.
        """
        plan = Plan(tuple(parts), terms.mount, is_flat)
        check_plan(plan)
        terms = _checked(terms)
        if plan.mount is None:
            return self._make_whole(plan, terms)
        before = self._of_target(plan.mount.target)
        for tree in before:
            if tree.plan == plan and self._is_right(tree):
                self._hold(tree.hold, plan, terms)  # anew: of this boot
                return tree
        made = self._make_own(plan, terms)
        for tree in before:
            self.remove(tree.hold)
        return made

    def _make_whole(self, plan: Plan, terms: Terms) -> Tree:
        hold = self._holds.fresh(terms.kind)
        leaves = leaves_of(hold, plan, self._builder.contents(plan))
        with self._making(hold, plan, terms) as new:
            self._builder.build(new, leaves)
        return Tree(hold, self._layout.mount(hold), plan)

    def _make_own(self, plan: Plan, terms: Terms) -> Tree:
        hold, path = self._holds.fresh(terms.kind), self._shared.make(plan, self._shown)
        with self._making(hold, plan, terms) as new:
            self._build_own(new, hold, plan)
        return Tree(hold, path, plan, self._layout.mount(hold))

    def prepare(self, part: Part) -> None:
        """What the first pod with a volume of this one artifact would wait for; nothing where there is such a tree.

        Raises:
            NotFound, Corrupt: it is not staged, or damaged.
        """
        if not self._shared.is_ready_for(part.artifact, self._shown()):
            self._shared.make(Plan((part,)), self._shown)

    @contextmanager
    def _making(self, hold: HoldId, plan: Plan, terms: Terms) -> Iterator[Path]:
        """Held before anything is there; on failure nothing is left."""
        new = self._layout.mounts / f"{NEW}{hold}"
        make_directories(self._disk, self._layout.mounts, above=self._layout.root)
        try:
            self._hold(hold, plan, terms)
            yield new
            self._disk.rename(new, self._layout.mount(hold))
            if plan.mount is None:
                self._disk.sync_directory(self._layout.mounts)
        except BaseException:
            with suppress(PrestageError, OSError):
                remove_tree(self._disk, new)
                self.remove(hold)
            raise

    def _build_own(self, new: Path, hold: HoldId, plan: Plan) -> None:
        folders = {new, *((new / name).parent for name, _, _ in own_links(plan))}
        for folder in sorted(folders):
            self._disk.make_directory(folder, 0o755)
        for name, artifact, side in own_links(plan):
            self._disk.link(self._layout.side(artifact) / side, new / name)
        new_file(self._disk, new / OWN_RECORD, own_record(hold, plan), synced=False)
        self._builder.seal(folders, synced=False)

    def _hold(self, hold: HoldId, plan: Plan, terms: Terms) -> None:
        for artifact in dict.fromkeys(part.artifact for part in plan.parts):
            self._holds.add(
                artifact,
                terms.kind,
                expires_at=terms.expires_at,
                pid=terms.pid,
                note=terms.note,
                tree=hold,
                mount=terms.mount,
            )

    def _of_target(self, target: str) -> list[Tree]:
        return [tree for tree in self.all() if tree.plan.mount is not None and tree.plan.mount.target == target]

    def _is_right(self, tree: Tree) -> bool:
        """It is held, and shows what it should."""
        if not self.is_live(tree) or not all(self._views.exists(part.artifact) for part in tree.parts):
            return False
        if tree.own is not None:
            return self._shared.make(tree.plan, self._shown) == tree.path and self._has_own(tree)
        return self._builder.is_right(tree.path, leaves_of(tree.hold, tree.plan, self._builder.contents(tree.plan)))

    def _has_own(self, tree: Tree) -> bool:
        """As far as one need look: it is not written to. Its socket comes and goes."""
        own = self._layout.mount(tree.hold)
        return all(_is_as(own / name, self._layout.side(artifact) / side) for name, artifact, side in own_links(tree.plan))

    def renew(self) -> None:
        """What a power cut took from trees of mounts of an earlier boot, which are bound nowhere. For an owner that starts."""
        bound: set[str] = set()
        for tree in list(self.all()):
            documents = [self._holds.all(artifact).get(tree.hold, {}) for artifact in self._holds.of(tree.hold)]
            if any(document.get("kind") == "mount" and document.get("boot") != boot_id() for document in documents):
                self._renew(tree)
            elif tree.own is not None:
                bound.add(key_of(tree.plan))
        self._shared.renew(bound)

    def _renew(self, tree: Tree) -> None:
        if not tree.parts:
            self.remove(tree.hold)  # what it was of is lost: whoever mounts asks again
            return
        try:
            contents = self._builder.contents(tree.plan)
        except (NotFound, Corrupt):
            return  # staged again, it is healed
        leaves = leaves_of(tree.hold, tree.plan, contents)
        if self._has_own(tree) if tree.own is not None else self._builder.is_right(tree.path, leaves):
            return
        new = self._layout.mounts / f"{NEW}{tree.hold}"
        if tree.own is not None:
            self._build_own(new, tree.hold, tree.plan)
        else:
            self._builder.build(new, leaves)
        remove_tree(self._disk, self._layout.mount(tree.hold))
        self._disk.rename(new, self._layout.mount(tree.hold))

    def all(self) -> Iterator[Tree]:
        """Those that are there, whether held or not. One whose account of itself is damaged has no parts."""
        with suppress(FileNotFoundError):
            for path in sorted(self._layout.mounts.iterdir()):
                if HOLD.fullmatch(path.name):
                    yield self._read(path)

    def get(self, hold: HoldId) -> Tree | None:
        """The tree of `hold`, if it has one."""
        path = self._layout.mount(hold)
        return self._read(path) if HOLD.fullmatch(hold) and path.is_dir() else None

    def _read(self, path: Path) -> Tree:
        hold = HoldId(path.name)
        if (plan := _plan(path / OWN_RECORD)) is not None:
            return Tree(hold, self._shared.path(plan), plan, path)
        return Tree(hold, path, _plan(path / RECORD) or Plan(()))

    def _shown(self) -> dict[str, Plan]:
        """Of trees that pods share: which are shown, by key."""
        return {key_of(tree.plan): tree.plan for tree in self.all() if tree.own is not None}

    def is_live(self, tree: Tree) -> bool:
        """Each of its artifacts is held by the hold of its name; without an account of itself: any."""
        if tree.parts:
            return all(self._holds.lives(part.artifact, tree.hold) for part in tree.parts)
        return any(self._holds.lives(artifact, tree.hold) for artifact in self._holds.of(tree.hold))

    def remove(self, hold: HoldId) -> Sequence[ArtifactId]:
        """The tree of `hold`, then its holds on every artifact, durably. Idempotent. Returns what it held."""
        if not HOLD.fullmatch(hold):
            return ()
        path, gone = self._layout.mount(hold), self._layout.mounts / f"{GONE}{hold}"
        if path.exists():
            self._disk.rename(path, gone)
            self._disk.sync_directory(self._layout.mounts)
        held = self._holds.of(hold)
        for artifact in held:
            self._holds.drop(artifact, hold)
        remove_tree(self._disk, gone)
        return held

    def sweep(self) -> list[HoldId]:
        """Remove trees whose hold is over, leftovers of what was cut off, and holds whose tree is not there. Which trees went."""
        gone = []
        for path in sorted(self._layout.mounts.iterdir()):
            if path.name.startswith((NEW, GONE)):
                remove_tree(self._disk, path)
        for tree in list(self.all()):
            if tree.plan.mount is not None:
                self._restore(tree)
            elif not self.is_live(tree):
                self.remove(tree.hold)
                gone.append(tree.hold)
        for hold in self._holds.of_trees():
            if not self._layout.mount(hold).exists():
                self.remove(hold)
        self._shared.sweep(self._shown())
        return gone

    def _restore(self, tree: Tree) -> None:
        """A mount's tree goes before its holds do: where it is there and a hold is not, the hold was lost."""
        if not self.is_live(tree) and all(self._artifacts.is_known(part.artifact) for part in tree.parts):
            self._hold(tree.hold, tree.plan, Terms("mount", note="restored", mount=tree.plan.mount))

    def remove_dead(self, artifact: ArtifactId) -> None:
        """The trees that show `artifact`, which nobody holds any more: what is evicted must be in none."""
        for tree in list(self.all()):
            if any(part.artifact == artifact for part in tree.parts) and not self.is_live(tree) and tree.plan.mount is None:
                self.remove(tree.hold)
        self._shared.remove_showing(artifact, self._shown())

    def heal(self, blobs: Collection[BlobId] | None = None) -> None:
        """Put right what is not as it should be in any tree, as far as the bytes are here; with `blobs`, only trees that show
        one of these.
        """
        for tree in list(self.all()):
            if tree.parts and (blobs is None or self._builder.shows(tree.plan, blobs)):
                self._heal(tree)
        self._shared.heal(self._shown(), blobs)

    def _heal(self, tree: Tree) -> None:
        builder, plan = self._builder, tree.plan
        if tree.own is not None:
            self._heal_own(tree)
            return
        try:
            if builder.is_whole(plan):
                leaves = leaves_of(tree.hold, plan, builder.contents(plan))
            else:
                leaves = builder.present(leaves_of(tree.hold, plan, builder.known(plan), verifiable=False))
        except (NotFound, Corrupt, KeyError):
            return  # a manifest, binding or meta is damaged: staging it again writes it, and heals again
        builder.put_right(tree.path, leaves)

    def _heal_own(self, tree: Tree) -> None:
        """What a loader verifies against, if the view's is another by now."""
        own, files = self._layout.mount(tree.hold), {}
        for name, artifact, side in own_links(tree.plan):
            with suppress(OSError):
                files[name] = (self._layout.side(artifact) / side).read_bytes()
        self._builder.put_right(own, Leaves(files=files))


def _checked(terms: Terms) -> Terms:
    if terms.kind == "ttl" and terms.expires_at is None:
        raise Misconfigured("a ttl hold needs a time at which it ends", hint="give expires_at")
    if (terms.kind == "mount") != (terms.mount is not None):
        raise Misconfigured("a mount says whom it is for, and nothing else does", hint="give pod and target")
    return replace(terms, pid=os.getpid()) if terms.kind == "run" and terms.pid is None else terms


def _plan(path: Path) -> Plan | None:
    """By the account there; None where it is damaged, or none is."""
    try:
        return parse_record(path.read_bytes())
    except OSError:
        return None


def _is_as(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other) or path.read_bytes() == other.read_bytes()
    except OSError:
        return False
