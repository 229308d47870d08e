"""Trees: artifacts put together for one client under mounts/<hold id>/, to be used as they are or bound read-only.

    under the gate:   holds -> .new-<hold>, synced -> renamed      made
                      renamed to .gone-<hold> -> holds -> removed  let go

Invariants: a tree is complete or absent, and lives as long as its hold. Nothing in it leads out of it. Its files are hardlinks:
they take no room, and none is there whose artifact could be evicted. Any process of the store's user makes and drops trees;
the owner heals them, file by file, by a rename over what is wrong: whoever has that mapped keeps it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Corrupt, Misconfigured, NotFound, PrestageError
from prestage.cacher.store.artifacts import Artifacts
from prestage.cacher.store.blobs import Blobs
from prestage.cacher.store.composing import HUB, RECORD, Part, Plan, check_plan, leaves_of, parse_record
from prestage.cacher.store.disk import Disk, make_directories, new_file, remove_tree
from prestage.cacher.store.holds import HoldId, Holds, Kind, Mount, boot_id
from prestage.cacher.store.hub_layout import Leaves
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.sums import Content
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

    def __init__(self, layout: Layout, disk: Disk, blobs: Blobs, artifacts: Artifacts, *, views: Views, holds: Holds) -> None:
        self._layout, self._disk, self._blobs = layout, disk, blobs
        self._artifacts, self._views, self._holds = artifacts, views, holds

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
        if terms.kind == "ttl" and terms.expires_at is None:
            raise Misconfigured("a ttl hold needs a time at which it ends", hint="give expires_at")
        if terms.kind == "run" and terms.pid is None:
            terms = replace(terms, pid=os.getpid())
        if (terms.kind == "mount") != (terms.mount is not None):
            raise Misconfigured("a mount says whom it is for, and nothing else does", hint="give pod and target")
        before = [] if terms.mount is None else self._of_target(terms.mount.target)
        for tree in before:
            if tree.plan == plan and self._is_right(tree):
                self._hold(tree.hold, plan, terms)  # anew: of this boot
                return tree
        hold = self._holds.fresh(terms.kind)
        leaves = self._leaves(hold, plan)
        new = self._layout.mounts / f"{NEW}{hold}"
        make_directories(self._disk, self._layout.mounts, above=self._layout.root)
        try:
            self._hold(hold, plan, terms)
            self._build(new, leaves, synced=terms.mount is None)
            self._disk.rename(new, self._layout.mount(hold))
            if terms.mount is None:
                self._disk.sync_directory(self._layout.mounts)
        except BaseException:
            with suppress(PrestageError, OSError):
                remove_tree(self._disk, new)
                self.remove(hold)
            raise
        for tree in before:
            self.remove(tree.hold)
        return Tree(hold, self._layout.mount(hold), plan)

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
        leaves = self._leaves(tree.hold, tree.plan)
        return self._shows(tree, leaves)

    def _shows(self, tree: Tree, leaves: Leaves) -> bool:
        if any(not (tree.path / name).is_symlink() for name in leaves.symlinks):
            return False
        return not self._wrong(tree.path, leaves)

    def renew(self) -> None:
        """What a power cut took from trees of mounts of an earlier boot, which are bound nowhere. For an owner that starts."""
        for tree in list(self.all()):
            documents = [self._holds.all(artifact).get(tree.hold, {}) for artifact in self._holds.of(tree.hold)]
            if any(document.get("kind") == "mount" and document.get("boot") != boot_id() for document in documents):
                self._renew(tree)

    def _renew(self, tree: Tree) -> None:
        if not tree.parts:
            self.remove(tree.hold)  # what it was of is lost: whoever mounts asks again
            return
        try:
            leaves = self._leaves(tree.hold, tree.plan)
        except (NotFound, Corrupt):
            return  # staged again, it is healed
        if not self._shows(tree, leaves):
            new = self._layout.mounts / f"{NEW}{tree.hold}"
            self._build(new, leaves)
            remove_tree(self._disk, tree.path)
            self._disk.rename(new, tree.path)

    def _leaves(self, hold: HoldId, plan: Plan) -> Leaves:
        for part in plan.parts:
            if not self._views.exists(part.artifact):
                raise NotFound(f"{part.artifact} is not staged", hint="stage it first: prestage stage REF")
            if not self._is_whole(part.artifact):
                raise Corrupt(f"{part.artifact} is damaged on disk", hint="stage it again: only the damaged files are fetched")
        contents = {}
        for part in plan.parts:
            manifest, binding = self._artifacts.manifest(part.artifact), self._artifacts.binding(part.artifact)
            contents[part.artifact] = self._views.content(manifest, binding)
        return leaves_of(hold, plan, contents)

    def _is_whole(self, artifact: ArtifactId) -> bool:
        binding = self._artifacts.binding(artifact)
        files = {file.path for file in self._artifacts.manifest(artifact).files}
        return binding.keys() == files and all(self._blobs.has(blob) for blob in binding.values())

    def _links(self, tree: Tree) -> Leaves:
        """What a tree shows, as far as its blobs are here, without what a loader verifies against."""
        contents = {}
        for part in tree.parts:
            manifest, binding = self._artifacts.manifest(part.artifact), self._artifacts.binding(part.artifact)
            contents[part.artifact] = Content(manifest, binding, {})
        leaves = leaves_of(tree.hold, tree.plan, contents, verifiable=False)
        leaves.links = {path: blob for path, blob in leaves.links.items() if self._blobs.has(blob)}
        return leaves

    def _build(self, top: Path, leaves: Leaves, *, synced: bool = True) -> None:
        names = {""}
        for path in (*leaves.links, *leaves.symlinks, *leaves.files):
            while (path := path.rpartition("/")[0]) not in names:
                names.add(path)
        folders = [top / name for name in names]
        for folder in sorted(folders):
            self._disk.make_directory(folder, 0o755)
        for name, blob in leaves.links.items():
            self._disk.link(self._layout.blob(blob), top / name)
        for name, target in leaves.symlinks.items():
            self._disk.symlink(target, top / name)
        for name, raw in leaves.files.items():
            new_file(self._disk, top / name, raw, synced=synced)
        for folder in sorted(folders, reverse=True):
            self._disk.set_mode(folder, 0o555)
            if synced:
                self._disk.sync_directory(folder)

    def all(self) -> Iterator[Tree]:
        """Those that are there, whether held or not. One whose account of itself is damaged has no parts."""
        with suppress(FileNotFoundError):
            for path in sorted(self._layout.mounts.iterdir()):
                if HOLD.fullmatch(path.name):
                    yield Tree(HoldId(path.name), path, self._plan(path))

    def get(self, hold: HoldId) -> Tree | None:
        """The tree of `hold`, if it has one."""
        path = self._layout.mount(hold)
        return Tree(hold, path, self._plan(path)) if HOLD.fullmatch(hold) and path.is_dir() else None

    def _plan(self, path: Path) -> Plan:
        with suppress(OSError):
            return parse_record((path / RECORD).read_bytes()) or Plan(())
        return Plan(())

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

    def heal(self, blobs: Collection[BlobId] | None = None) -> list[HoldId]:
        """Put right what is not as it should be in any tree, as far as the bytes are here; with `blobs`, only trees that show
        one of these. Which trees were healed.
        """
        return [tree.hold for tree in list(self.all()) if self._concerns(tree, blobs) and self._heal(tree)]

    def _concerns(self, tree: Tree, blobs: Collection[BlobId] | None) -> bool:
        if blobs is None:
            return True
        shown = (self._artifacts.binding(part.artifact) for part in tree.parts)
        return any(blob in blobs for binding in shown for blob in binding.values())

    def _heal(self, tree: Tree) -> bool:
        """Not synced: what a power cut takes back is healed again at the next start."""
        if not tree.parts:
            return False
        try:
            whole = all(self._is_whole(part.artifact) for part in tree.parts)
            leaves = self._leaves(tree.hold, tree.plan) if whole else self._links(tree)
        except (NotFound, Corrupt, KeyError):
            return False  # a manifest, binding or meta is damaged: staging it again writes it, and heals again
        wrong = self._wrong(tree.path, leaves)
        for folder in dict.fromkeys((tree.path / name).parent for name in wrong):
            self._disk.set_mode(folder, 0o755)
            for name, blob in wrong.items():
                if (tree.path / name).parent == folder:
                    self._replace(tree.path / name, blob)
        self._seal(tree.path)
        return bool(wrong)

    def _wrong(self, top: Path, leaves: Leaves) -> Mapping[str, BlobId | bytes]:
        """What is not as it should be, and what should be there."""
        wrong: dict[str, BlobId | bytes] = {}
        for name, blob in leaves.links.items():
            if not _is_same(top / name, self._layout.blob(blob)):
                wrong[name] = blob
        for name, raw in leaves.files.items():
            if not _holds(top / name, raw):
                wrong[name] = raw
        return wrong

    def _replace(self, path: Path, right: BlobId | bytes) -> None:
        beside = self._layout.mounts / f"{NEW}{secrets.token_hex(8)}"
        if isinstance(right, bytes):
            new_file(self._disk, beside, right)
        else:
            self._disk.link(self._layout.blob(right), beside)
        self._disk.rename(beside, path)

    def _seal(self, top: Path) -> None:
        """A heal that was cut off leaves a folder writable to its owner."""
        for folder in (top, *(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())):
            if folder.stat().st_mode & 0o777 != 0o555:
                self._disk.set_mode(folder, 0o555)


def _is_same(path: Path, blob: Path) -> bool:
    try:
        return not path.is_symlink() and path.samefile(blob)
    except OSError:
        return False


def _holds(path: Path, raw: bytes) -> bool:
    try:
        return path.read_bytes() == raw
    except OSError:
        return False
