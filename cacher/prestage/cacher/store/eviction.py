"""Letting go: artifacts, blobs that nobody names any more, quarantine.

An evict hides the view first (one rename, ordered against holds by the gate), then removes what only this artifact needed. Cut
off anywhere it is finished at the next start: the hidden view carries the artifact's name.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId, hex_of
from prestage.cacher.errors import Busy, PrestageError
from prestage.cacher.store.artifacts import Artifacts
from prestage.cacher.store.blobs import Blobs
from prestage.cacher.store.budget import Candidate
from prestage.cacher.store.disk import Disk, remove_tree
from prestage.cacher.store.holds import Holds, described
from prestage.cacher.store.index import Index
from prestage.cacher.store.ingest import allocated_bytes, identity
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.locks import gate
from prestage.cacher.store.views import GONE, Views


class Eviction:
    """For the owner of the store only. One thread at a time."""

    def __init__(
        self, layout: Layout, disk: Disk, *, blobs: Blobs, artifacts: Artifacts, views: Views, holds: Holds, index: Index
    ) -> None:
        self._layout, self._disk = layout, disk
        self._blobs, self._artifacts, self._views, self._holds, self._index = blobs, artifacts, views, holds, index
        self.spared: set[BlobId] = set()
        """Blobs that a stage of this process has published or chosen and not bound yet."""

    def evict(self, artifact: ArtifactId) -> int:
        """Let go of an artifact; returns the bytes of the blobs removed.

        Raises:
            Busy: somebody holds it; nothing was changed.
        """
        with gate(self._layout.gate):
            live = self._holds.live(artifact)
            if live:
                raise Busy(f"{artifact} is held by {described(live)}", hint="unpin it, or wait until what uses it has ended")
            self._views.hide(artifact)
        return self._finish(artifact)

    def finish_all(self) -> None:
        """Finish evicts that were cut off."""
        for gone in list(self._layout.views.glob(f"{GONE}*")):
            artifact = ArtifactId(f"sha256:{gone.name.removeprefix(GONE).partition('-')[0]}")
            if not self._views.exists(artifact):
                self._finish(artifact)
            remove_tree(self._disk, gone)

    def _finish(self, artifact: ArtifactId) -> int:
        blobs = set(self._artifacts.binding(artifact).values())
        self._drop_ingests(artifact)
        self._artifacts.forget(artifact)
        freed = sum(self.remove_blob(blob) for blob in sorted(blobs - self._bound()))
        for gone in list(self._layout.views.glob(f"{GONE}{hex_of(artifact)}-*")):
            remove_tree(self._disk, gone)
        self._disk.sync_directory(self._layout.views)
        return freed

    def remove_blob(self, blob: BlobId) -> int:
        """Remove one blob; returns its size on disk."""
        freed = self._blobs.remove(blob)
        self._index.drop_blob(hex_of(blob))
        return freed

    def _drop_ingests(self, artifact: ArtifactId) -> None:
        for path in self._ingests_of(artifact):
            remove_tree(self._disk, path)
        self._disk.sync_directory(self._layout.ingests)

    def _ingests_of(self, artifact: ArtifactId) -> list[Path]:
        try:
            manifest = self._artifacts.manifest(artifact)
        except PrestageError:
            return []
        mine = [self._layout.ingest(identity(manifest, file)) for file in manifest.files]
        return [path for path in mine if path.is_dir()]

    def _bound(self) -> set[BlobId]:
        bound = {blob for artifact in self._artifacts.all() for blob in self._artifacts.binding(artifact).values()}
        return bound | self.spared

    def sweep(self) -> int:
        """Remove what nobody needs: blobs that no binding names, and quarantine. Returns their bytes."""
        bound = {hex_of(blob) for blob in self._bound()}
        freed = sum(self.remove_blob(BlobId(f"blake3-tree:{name}")) for name in sorted(self._blobs.names().keys() - bound))
        for path in self._layout.quarantine.iterdir():
            freed += path.stat().st_blocks * 512
            remove_tree(self._disk, path)
        return freed

    def candidates(self, *, but: AbstractSet[ArtifactId]) -> list[Candidate]:
        """What could go, with what it would free."""
        bindings = {artifact: self._artifacts.binding(artifact) for artifact in self._artifacts.all()}
        names = {known.artifact: known.ref for known in self._artifacts.refs()}
        used = self._index.last_used()
        users: dict[BlobId, set[ArtifactId]] = {}
        for artifact, binding in bindings.items():
            for blob in binding.values():
                users.setdefault(blob, set()).add(artifact)
        found = []
        for artifact, binding in bindings.items():
            if artifact in but:
                continue
            own = {blob for blob in binding.values() if users[blob] == {artifact}}
            freed = sum(_size_on_disk(self._layout.blob(blob)) for blob in own)
            freed += sum(allocated_bytes(path) for path in self._ingests_of(artifact))
            holds = described(self._holds.live(artifact))
            found.append(Candidate(artifact, names.get(artifact, artifact), freed, used.get(artifact, 0.0), holds))
        return found


def _size_on_disk(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
