"""Directories of links, as they are planned: built where nobody sees them, looked at, put right file by file.

Its callers are inside the gate. A heal is a rename over what is wrong: whoever has that open or mapped keeps it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Corrupt, NotFound
from prestage.cacher.store.artifacts import Artifacts
from prestage.cacher.store.blobs import Blobs
from prestage.cacher.store.composing import Plan
from prestage.cacher.store.disk import Disk, new_file
from prestage.cacher.store.hub_layout import Leaves
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.sums import Content
from prestage.cacher.store.views import NEW, Views

Contents = Mapping[ArtifactId, Content]


class Builder:
    """Of one store. One thread at a time."""

    def __init__(self, layout: Layout, disk: Disk, blobs: Blobs, artifacts: Artifacts, views: Views) -> None:
        self._layout, self._disk, self._blobs = layout, disk, blobs
        self._artifacts, self._views = artifacts, views
        self._whole: dict[ArtifactId, int] = {}
        """How many blobs the store had lost when all of these were there."""

    def check(self, plan: Plan) -> None:
        """What it shows is staged and whole.

        Raises:
            NotFound: one is not staged.
            Corrupt: one is damaged.
        """
        for part in plan.parts:
            if not self._views.exists(part.artifact):
                raise NotFound(f"{part.artifact} is not staged", hint="stage it first: prestage stage REF")
            if not self._is_whole(part.artifact):
                raise Corrupt(f"{part.artifact} is damaged on disk", hint="stage it again: only the damaged files are fetched")

    def _is_whole(self, artifact: ArtifactId) -> bool:
        lost = self._blobs.lost
        if lost is not None and self._whole.get(artifact) == lost:
            return True
        binding = self._artifacts.binding(artifact)
        files = {file.path for file in self._artifacts.manifest(artifact).files}
        is_whole = binding.keys() == files and all(self._blobs.has(blob) for blob in binding.values())
        if is_whole and lost is not None:
            self._whole = {known: at for known, at in self._whole.items() if at == lost}
            self._whole[artifact] = lost
        return is_whole

    def contents(self, plan: Plan, *, said: bool = False) -> Contents:
        """What it shows, with sums; `said`: those that the views say, which is quick.

        Raises:
            NotFound, Corrupt: as `check`.
        """
        self.check(plan)
        read = self._views.said_content if said else self._views.content
        return {
            part.artifact: read(self._artifacts.manifest(part.artifact), self._artifacts.binding(part.artifact))
            for part in plan.parts
        }

    def known(self, plan: Plan) -> Contents:
        """What it shows, without sums, whole or not.

        Raises:
            NotFound, Corrupt: a manifest is.
        """
        return {
            part.artifact: Content(self._artifacts.manifest(part.artifact), self._artifacts.binding(part.artifact), {})
            for part in plan.parts
        }

    def is_whole(self, plan: Plan) -> bool:
        """Every blob of it is here.

        Raises:
            NotFound, Corrupt: a manifest is.
        """
        return all(self._is_whole(part.artifact) for part in plan.parts)

    def shows(self, plan: Plan, blobs: Iterable[BlobId]) -> bool:
        """It shows one of these."""
        wanted = set(blobs)
        return any(not wanted.isdisjoint(self._artifacts.binding(part.artifact).values()) for part in plan.parts)

    def present(self, leaves: Leaves) -> Leaves:
        """As far as its blobs are here."""
        leaves.links = {path: blob for path, blob in leaves.links.items() if self._blobs.has(blob)}
        return leaves

    def build(self, top: Path, leaves: Leaves, *, synced: bool = True) -> None:
        """Make the directory, which is not there."""
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
        self.seal(folders, synced=synced)

    def seal(self, folders: Iterable[Path], *, synced: bool) -> None:
        """Nobody writes to them any more."""
        for folder in sorted(folders, reverse=True):
            self._disk.set_mode(folder, 0o555)
            if synced:
                self._disk.sync_directory(folder)

    def is_right(self, top: Path, leaves: Leaves) -> bool:
        """It shows just that."""
        if any(not (top / name).is_symlink() for name in leaves.symlinks):
            return False
        return not self._wrong(top, leaves)

    def put_right(self, top: Path, leaves: Leaves) -> bool:
        """What is not as it should be; not synced: what a power cut takes back is put right again at the next start. True:
        something was."""
        wrong = self._wrong(top, leaves)
        for folder in dict.fromkeys((top / name).parent for name in wrong):
            self._disk.set_mode(folder, 0o755)
            for name, right in wrong.items():
                if (top / name).parent == folder:
                    self._replace(top / name, right)
        self._seal_again(top)
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

    def _seal_again(self, top: Path) -> None:
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
