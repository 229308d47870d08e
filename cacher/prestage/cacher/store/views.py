"""Views: an artifact as a read-only tree of hardlinks, beside what the loader verifies it against.

    views/<hex>/current/...                      what `prestage path` prints
    views/<hex>/.prestage/current/{manifest.json,sums}
    views/<hex>/.old-<x>/..., views/<hex>/.prestage/.old-<x>/     what a heal replaced, while it is held

Invariant 2: a view is complete or absent. It is built in views/.new-*, synced, and appears by one rename. A heal builds a second
tree and exchanges the two names; the old tree goes with its last hold. An evict renames it away before anything is removed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from prestage.cacher.digests import CHUNK_BYTES, CHUNK_SUM_BYTES, ArtifactId, BlobId, chunk_count, hex_of
from prestage.cacher.errors import Bug, PrestageError
from prestage.cacher.manifest import Manifest
from prestage.cacher.store.blobs import Blobs
from prestage.cacher.store.disk import Disk, make_directories, new_file, remove_tree, write_file
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.sums import Content, side_files

NEW, GONE, OLD = ".new-", ".gone-", ".old-"


class Views:
    """Builds, heals and removes views. One thread at a time per artifact."""

    def __init__(self, layout: Layout, disk: Disk, blobs: Blobs) -> None:
        self._layout, self._disk, self._blobs = layout, disk, blobs

    def exists(self, artifact: ArtifactId) -> bool:
        """There is a view; its blobs may have been quarantined since."""
        return self._layout.current(artifact).is_dir()

    def last_used(self, artifact: ArtifactId) -> float:
        """Seconds since the epoch: the view's time of modification, which `touch` sets; before there is one, the manifest's."""
        for path in (self._layout.view(artifact), self._layout.manifest(artifact)):
            with suppress(OSError):
                return path.stat().st_mtime
        return 0.0

    def touch(self, artifact: ArtifactId, at: float) -> None:
        """Remember a use. A disk that refuses it costs only the order in which things are evicted."""
        with suppress(PrestageError):
            self._disk.touch(self._layout.view(artifact), at)

    def publish(self, manifest: Manifest, binding: Mapping[str, BlobId], *, held: Callable[[], bool]) -> Path:
        """Make the view, or heal it where its files are not those of the blobs any more. Durable on return."""
        artifact = manifest.artifact
        if set(binding) != {file.path for file in manifest.files}:
            raise Bug(f"{artifact} is published without all its files")
        current = self._layout.current(artifact)
        if not self.exists(artifact):
            self._make(manifest, binding)
            return current
        if not self.is_right(artifact, binding):
            self._heal(artifact, binding, held=held)
        self._heal_side(manifest, binding)
        return current

    def _make(self, manifest: Manifest, binding: Mapping[str, BlobId]) -> None:
        artifact = manifest.artifact
        new = self._layout.views / f"{NEW}{hex_of(artifact)}-{secrets.token_hex(4)}"
        side = new / ".prestage" / "current"
        with self._nothing_left_of(new):
            for folder in (new, side.parent, side):
                self._disk.make_directory(folder, 0o755)
            self._build(new / "current", binding)
            for name, raw in self.side_files(manifest, binding).items():
                new_file(self._disk, side / name, raw)
            self._disk.set_mode(side, 0o555)
            for folder in (side, side.parent, new):
                self._disk.sync_directory(folder)
            self._disk.rename(new, self._layout.view(artifact))
        self._disk.sync_directory(self._layout.views)

    @contextmanager
    def _nothing_left_of(self, *trees: Path) -> Iterator[None]:
        """What failed halfway is removed: its links would keep the room of blobs that are evicted."""
        try:
            yield
        except BaseException:
            with suppress(PrestageError, OSError):
                for tree in trees:
                    remove_tree(self._disk, tree)
            raise

    def _build(self, tree: Path, binding: Mapping[str, BlobId]) -> None:
        folders = {tree}
        for path in binding:
            folders.update(tree / parent for parent in Path(path).parents)
        for folder in sorted(folders):
            self._disk.make_directory(folder, 0o755)
        for path, blob in binding.items():
            self._disk.link(self._layout.blob(blob), tree / path)
        for folder in sorted(folders, reverse=True):
            self._disk.set_mode(folder, 0o555)
            self._disk.sync_directory(folder)

    def _heal(self, artifact: ArtifactId, binding: Mapping[str, BlobId], *, held: Callable[[], bool]) -> None:
        view = self._layout.view(artifact)
        generation = view / f"{OLD}{secrets.token_hex(4)}"
        with self._nothing_left_of(generation, self._layout.old_side(artifact, generation.name)):
            self._build(generation, binding)
            self._keep_side(artifact, generation.name)
            self._disk.exchange(generation, view / "current")
        self._disk.sync_directory(view)
        if not held():
            self._remove_generation(artifact, generation)

    def _keep_side(self, artifact: ArtifactId, generation: str) -> None:
        """The old tree goes on to be read by who works in it: what it verifies against stays beside it under its new name. Not
        synced: a power cut ends them all.
        """
        side, kept = self._layout.side(artifact), self._layout.old_side(artifact, generation)
        if not side.is_dir():
            return
        self._disk.make_directory(kept, 0o755)
        for path in sorted(side.iterdir()):
            if not path.name.startswith("."):
                self._disk.link(path, kept / path.name)
        self._disk.set_mode(kept, 0o555)

    def _remove_generation(self, artifact: ArtifactId, generation: Path) -> None:
        remove_tree(self._disk, generation)
        remove_tree(self._disk, self._layout.old_side(artifact, generation.name))

    def _heal_side(self, manifest: Manifest, binding: Mapping[str, BlobId]) -> None:
        side = self._layout.side(manifest.artifact)
        if not side.is_dir():
            make_directories(self._disk, side, above=self._layout.view(manifest.artifact))
        for name, raw in self.side_files(manifest, binding).items():
            path = side / name
            if not path.exists() or path.read_bytes() != raw:
                self._disk.set_mode(side, 0o755)
                write_file(self._disk, path, raw)
                self._disk.set_mode(side, 0o555)

    def wrong_paths(self, artifact: ArtifactId, binding: Mapping[str, BlobId]) -> list[str]:
        """Files of the view that are not the published blobs they should be."""
        current = self._layout.current(artifact)
        wrong = []
        for path, blob in binding.items():
            try:
                if not (current / path).samefile(self._layout.blob(blob)):
                    wrong.append(path)
            except OSError:
                wrong.append(path)
        return wrong

    def is_right(self, artifact: ArtifactId, binding: Mapping[str, BlobId]) -> bool:
        """Every file of the view is the published blob that it should be."""
        return not self.wrong_paths(artifact, binding)

    def content(self, manifest: Manifest, binding: Mapping[str, BlobId]) -> Content:
        """An artifact's files with their sums, from the metas of its blobs.

        Raises:
            Corrupt: a meta is gone or damaged.
        """
        metas = {blob: self._blobs.meta(blob) for blob in set(binding.values())}
        return Content(manifest, binding, {blob: (meta.size_bytes, meta.chunk_sums) for blob, meta in metas.items()})

    def said_content(self, manifest: Manifest, binding: Mapping[str, BlobId]) -> Content:
        """The same, read off the view's own sums: one file instead of a thousand. Where these are damaged, from the metas.

        Raises:
            Corrupt: as `content`.
        """
        try:
            document = json.loads((self._layout.side(manifest.artifact) / "sums").read_bytes())
            chunks = {
                binding[file.path]: (file.size_bytes, bytes.fromhex(document["files"][file.path]["chunks"]))
                for file in manifest.files
            }
            whole = all(len(sums) == CHUNK_SUM_BYTES * chunk_count(size) for size, sums in chunks.values())
            if whole and document["artifact"] == manifest.artifact and document["chunk_bytes"] == CHUNK_BYTES:
                return Content(manifest, binding, chunks)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return self.content(manifest, binding)

    def side_files(self, manifest: Manifest, binding: Mapping[str, BlobId]) -> dict[str, bytes]:
        """What lies in .prestage/current/."""
        return side_files(self.content(manifest, binding))

    def hide(self, artifact: ArtifactId) -> Path | None:
        """Rename the view away, atomically and durably: from here on it is absent. None: there was none."""
        view = self._layout.view(artifact)
        if not view.exists():
            return None
        gone = self._layout.views / f"{GONE}{hex_of(artifact)}-{secrets.token_hex(4)}"
        self._disk.rename(view, gone)
        self._disk.sync_directory(self._layout.views)
        return gone

    def remove_old(self, artifact: ArtifactId) -> None:
        """Remove what earlier heals replaced; call it only when nobody holds the artifact."""
        view = self._layout.view(artifact)
        if view.is_dir():
            for old in (*view.glob(f"{OLD}*"), *view.glob(f".prestage/{OLD}*")):
                remove_tree(self._disk, old)
