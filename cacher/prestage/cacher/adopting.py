"""Adopting: what lies on this machine already becomes an artifact, without being fetched.

    PATH is a Hugging Face cache's repository or snapshot     -> as `stage hf://org/name@revision` would make it, offline
    PATH is any other directory or file                       -> as `stage file://PATH` would make it

It is a stage whose origin is local: blocks are cloned where the file system can, else copied, then the clone is verified; the
source is read only. With `take` the files are given away: proved to be nobody else's, linked in instead of cloned, and their
old names go at the very end, when the artifact is whole and pinned for the time of it. A kill leaves each file there or here,
most often both, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt, Misconfigured
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.file import FileOrigin
from prestage.cacher.origins.hub_cache import HubCacheOrigin, NotKnown, Snapshot, find_snapshot, is_hub_cache, linked_by_others
from prestage.cacher.origins.ports import FileRead, LocalOrigin, Selection, Verdict
from prestage.cacher.refs import FileRef, HfRef, Ref
from prestage.cacher.staging import Staged, Stager, Watcher, Wish
from prestage.cacher.staging.events import Event, done
from prestage.cacher.store.holds import HoldId
from prestage.cacher.store.store import Store
from prestage.cacher.taking import Claims


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of a path."""

    staged: Staged
    ref: str
    """What it is known as from here on."""
    notes: tuple[str, ...] = ()
    """What a person should know: why it is no hf:// artifact, what is missing, what was left where it was."""
    taken: int = 0
    """Files whose old names are gone."""

    def to_event(self) -> Event:
        """The last event of an adoption."""
        return {**done(self.staged), "ref": self.ref, "notes": list(self.notes), "taken": self.taken}


class _Giving(LocalOrigin, Protocol):
    """A local origin that says which names go when a file is given away."""

    def names(self, path: str) -> list[Path]:
        """Of the file at `path`; empty: it must stay."""
        ...


@dataclass(slots=True)
class _Directory:
    """A plain directory or file: each file has its one name."""

    origin: FileOrigin
    seen: dict[str, FileRead] = field(default_factory=dict)

    def resolve(self, selection: Selection) -> Manifest:
        return self.origin.resolve(selection)

    def place(self, manifest: Manifest, file: FileEntry) -> FileRead:
        read = self.seen[file.path] = self.origin.place(manifest, file)
        return read

    def request(self, manifest: Manifest, file: FileEntry) -> FileRead:
        return self.place(manifest, file)

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        return self.origin.judge(file, head, body)

    def refresh(self, file: FileEntry) -> None:
        self.origin.refresh(file)

    def names(self, path: str) -> list[Path]:
        return [Path(self.seen[path].path)]


@dataclass(slots=True)
class _Given:
    """A local origin whose files are given away: each is claimed before anything is done with it."""

    origin: _Giving
    store: Store
    claims: Claims
    manifest: Manifest | None = None
    kept: list[str] = field(default_factory=list)

    def resolve(self, selection: Selection) -> Manifest:
        manifest = self.manifest = self.origin.resolve(selection)
        self.claims.close()
        self.kept.clear()
        for file in manifest.files:
            path = Path(self.origin.place(manifest, file).path)
            if self.origin.names(file.path):
                self.claims.claim(path, is_ours=self.store.sources.is_blob(path))
            else:
                self.kept.append(file.path)
        return manifest

    def place(self, manifest: Manifest, file: FileEntry) -> FileRead:
        return replace(self.origin.place(manifest, file), is_given=file.path not in self.kept)

    def request(self, manifest: Manifest, file: FileEntry) -> FileRead:
        return self.place(manifest, file)

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        return self.origin.judge(file, head, body)

    def refresh(self, file: FileEntry) -> None:
        self.origin.refresh(file)

    def names(self) -> list[Path]:
        """What goes in the end."""
        files = self.manifest.files if self.manifest is not None else ()
        return [name for file in files if file.path not in self.kept for name in self.origin.names(file.path)]


@dataclass(frozen=True, slots=True)
class _Found:
    ref: Ref
    origin: _Giving
    selection: Selection
    notes: tuple[str, ...]
    folder: Path
    """Where the files' names lie, for what is left of an adoption that was cut off."""


class Adopter:
    """Adopts into one store. Thread-safe as its stager is. `endpoint`: the hub that Hugging Face caches are of."""

    def __init__(self, store: Store, stager: Stager, endpoint: str) -> None:
        self._store, self._stager, self._endpoint = store, stager, endpoint

    def adopt(
        self,
        path: Path,
        *,
        ref: HfRef | None = None,
        take: bool = False,
        watcher: Watcher | None = None,
        cancel: threading.Event | None = None,
    ) -> Adopted:
        """Make the store hold what lies at `path`; blocks. The source is untouched, but for `take`.

        Raises:
            Busy: with `take`: somebody else has a file too, or writes to it; nothing was taken.
            Corrupt: the cache's bytes are not what its names or its listing say; nothing of it was published.
            NotFound, Denied, Misconfigured, Full, Unavailable, Cancelled: as a stage.
        """
        path = path.absolute()
        if take and (rest := self._unfinished(path)) is not None:
            return self._finish(*rest, path)
        found = self._look_at(path, ref)
        wish = Wish(found.ref, found.selection)
        if not take:
            staged = self._stage(wish, found.origin, watcher, cancel)
            return Adopted(staged, found.ref.name, found.notes)
        with contextlib.closing(Claims()) as claims:
            given = _Given(found.origin, self._store, claims)
            staged = self._stage(wish, given, watcher, cancel)
            claims.check()
            names = given.names()
            with self._pinned(staged.artifact, path):
                self._store.sources.take_away(staged.artifact, names)
        notes = (*found.notes, f"left where they are, needed there: {', '.join(given.kept)}") if given.kept else found.notes
        _remove_empty(found.folder)
        return Adopted(staged, found.ref.name, notes, staged.files - len(given.kept))

    def _stage(self, wish: Wish, origin: LocalOrigin, watcher: Watcher | None, cancel: threading.Event | None) -> Staged:
        try:
            return self._stager.stage(wish, origin, watcher, cancel)
        except Corrupt as exc:
            raise Corrupt(exc.message, hint="the source is damaged: remove that file there and download it again") from exc

    def _look_at(self, path: Path, ref: HfRef | None) -> _Found:
        if not is_hub_cache(path):
            if ref is not None:
                raise Misconfigured(
                    f"{path} is no Hugging Face cache: nothing there says what {ref.name} is",
                    hint="leave --ref out to adopt it as file://, or name a models--org--name directory",
                )
            return _plain(path, ())
        snapshot: Snapshot | None = None
        try:
            snapshot = find_snapshot(path, ref)
            origin = HubCacheOrigin(snapshot, self._endpoint)
        except NotKnown as exc:
            if ref is not None or snapshot is None:
                raise Misconfigured(f"{path}: {exc}", hint="name the snapshot's own folder to adopt it as file://") from exc
            return _plain(snapshot.folder, (f"adopted as file://: {exc}",))
        notes = () if origin.is_whole else (f"a part of {snapshot.ref.name}: stage it to fetch the rest, and only that",)
        return _Found(snapshot.ref, origin, origin.selection, notes, snapshot.folder)

    @contextmanager
    def _pinned(self, artifact: ArtifactId, path: Path) -> Iterator[None]:
        """Not evicted, and known to be on its way, until its old names are gone; a kill leaves the pin for the next run."""
        hold = self._store.hold(artifact, kind="pin", note=_note(path))
        yield
        self._store.drop_hold(artifact, hold)

    def _unfinished(self, path: Path) -> tuple[ArtifactId, HoldId, str] | None:
        for row in self._store.list():
            for hold in row.holds:
                if hold.get("note") == _note(path):
                    return row.artifact, HoldId(str(hold["id"])), row.ref or row.artifact
        return None

    def _finish(self, artifact: ArtifactId, hold: HoldId, ref: str, path: Path) -> Adopted:
        """Take away the names that a run which was cut off had left."""
        began = time.monotonic()
        tree, manifest = self._store.path(artifact), self._store.manifest(artifact)
        folder = _names_folder(path, manifest)
        needed = linked_by_others(folder)
        with contextlib.closing(Claims()) as claims:
            names: list[Path] = []
            for file in manifest.files:
                name = folder / file.path if folder.is_dir() else folder
                blob = name.resolve()
                if name.is_symlink() and not blob.exists():
                    names.append(name)
                elif blob.name not in needed and self._store.sources.equals(artifact, file.path, blob):
                    claims.claim(blob, is_ours=self._store.sources.is_blob(blob))
                    names += dict.fromkeys((blob, name))
            claims.check()
            self._store.sources.take_away(artifact, names)
        self._store.drop_hold(artifact, hold)
        _remove_empty(folder)
        here = {"store": manifest.size_bytes}
        staged = Staged(artifact, tree, len(manifest.files), manifest.size_bytes, time.monotonic() - began, here)
        return Adopted(staged, ref, ("went on with a run that was cut off",), len(manifest.files))


def _plain(path: Path, notes: tuple[str, ...]) -> _Found:
    ref = FileRef(str(path))
    return _Found(ref, _Directory(FileOrigin(ref)), Selection(), notes, path)


def _note(path: Path) -> str:
    """Of the pin; short enough to be kept whole."""
    shown = str(path) if len(str(path)) <= 160 else f"…{hashlib.sha256(str(path).encode()).hexdigest()}"
    return f"prestage adopt --take {shown}"


def _names_folder(path: Path, manifest: Manifest) -> Path:
    """Where the names of the files of an unfinished adoption of `path` are."""
    if is_hub_cache(path) and path.parent.name != "snapshots" and manifest.revision is not None:
        return path / "snapshots" / manifest.revision
    return path


def _remove_empty(folder: Path) -> None:
    """The directories that are empty by now, below `folder` and itself."""
    if not folder.is_dir():
        return
    for path in sorted((path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()
