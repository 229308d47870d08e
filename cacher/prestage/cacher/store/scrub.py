"""The scrub: check every blob of an artifact or of the store, and every view against its blobs; take what is wrong out of use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from prestage.cacher.digests import ArtifactId, BlobId
from prestage.cacher.errors import Corrupt, NotFound, PrestageError
from prestage.cacher.store.eviction import Parts
from prestage.cacher.store.verify import Damage, Finding, VerifyReport, check_blob

Progress = Callable[[int, int], None]


class Scrub:
    """One pass. With `repair` (the owner) damaged blobs are quarantined and lost metas written again."""

    def __init__(self, parts: Parts, *, repair: bool, on_progress: Progress | None) -> None:
        self._parts, self._repair, self._on_progress = parts, repair, on_progress
        self._users: dict[BlobId, list[tuple[ArtifactId, str]]] = defaultdict(list)
        self._report = VerifyReport()
        self._total = 0

    def run(self, artifact: ArtifactId | None) -> VerifyReport:
        """Check `artifact`, or everything. What was bound and is not there counts as bad; what was never fetched does not.

        Raises:
            NotFound: no such artifact.
            Unavailable: the disk failed.
        """
        blobs = self._wanted(artifact)
        layout = self._parts.layout
        sizes = {}
        for blob in blobs:
            with suppress(FileNotFoundError):
                sizes[blob] = layout.blob(blob).stat().st_size
        self._total = sum(sizes.values())
        for blob in sorted(blobs):
            self._check(blob)
        for one in [artifact] if artifact is not None else list(self._parts.artifacts.all()):
            self._check_view(one)
        return self._report

    def _wanted(self, artifact: ArtifactId | None) -> set[BlobId]:
        artifacts = self._parts.artifacts
        for other in artifacts.all():
            for path, blob in artifacts.binding(other).items():
                self._users[blob].append((other, path))
        if artifact is None:
            return {BlobId(f"blake3-tree:{name}") for name in self._parts.blobs.names()} | self._users.keys()
        artifacts.manifest(artifact)
        return set(artifacts.binding(artifact).values())

    def _check(self, blob: BlobId) -> None:
        found = check_blob(self._parts.blobs, self._parts.layout.blob(blob), blob, self._advance)
        if found.why and self._is_gone_for_good(blob):
            return
        self._report.files += 1
        if found.lost_meta is not None and self._repair:
            self._parts.blobs.restore_meta(found.lost_meta)
        elif found.lost_meta is not None:
            self._add(blob, Finding("its meta is gone or damaged"))
        elif found.why:
            self._add(blob, found)
            if self._repair and self._parts.layout.blob(blob).exists():
                self._parts.blobs.quarantine(blob)
                self._report.quarantined = True
        elif self._repair:
            self._parts.blobs.note_verified(blob, self._parts.now())

    def _is_gone_for_good(self, blob: BlobId) -> bool:
        """Evicted while we read: no binding names it any more."""
        artifacts = self._parts.artifacts
        if self._parts.layout.blob(blob).exists():
            return False
        return all(blob not in artifacts.binding(artifact).values() for artifact, _ in self._users.get(blob, ()))

    def _add(self, blob: BlobId, found: Finding) -> None:
        users = self._users.get(blob, ())
        names, paths = tuple(dict.fromkeys(user for user, _ in users)), tuple(dict.fromkeys(path for _, path in users))
        self._report.bad.append(Damage(blob, names, paths, found.why, found.chunk_offsets))

    def _advance(self, size_bytes: int) -> None:
        self._report.bytes += size_bytes
        if self._on_progress is not None:
            self._on_progress(self._report.bytes, self._total)

    def _check_view(self, artifact: ArtifactId) -> None:
        parts = self._parts
        if not parts.views.exists(artifact):
            return
        binding = parts.artifacts.binding(artifact)
        bad = {damage.blob for damage in self._report.bad}
        for path in parts.views.wrong_paths(artifact, binding):
            if binding[path] not in bad:
                self._report.bad.append(Damage(binding[path], (artifact,), (path,), "the view's file is not the blob"))
        if bad.isdisjoint(binding.values()):
            self._check_side(artifact, binding)

    def _check_side(self, artifact: ArtifactId, binding: dict[str, BlobId]) -> None:
        parts = self._parts
        try:
            manifest = parts.artifacts.manifest(artifact)
            expected = parts.views.side_files(manifest, binding)
        except (NotFound, Corrupt, KeyError) as exc:
            why = exc.message if isinstance(exc, PrestageError) else "its binding is not complete"
            self._report.bad.append(Damage(BlobId(""), (artifact,), (), why))
            return
        for name, raw in expected.items():
            path = parts.layout.side(artifact) / name
            if not path.is_file() or path.read_bytes() != raw:
                said = f"the view's {name} is damaged"
                self._report.bad.append(Damage(BlobId(""), (artifact,), (f".prestage/{name}",), said))
