"""Letting go: what an evict removes, in which order, and what could be evicted.

    under the gate: nobody holds it -> trees that outlived their hold go -> rename its view away (.gone-*)     now it is absent
    blobs that no other binding names -> refs, binding, manifest -> what was fetched of it -> the tree

Each step is durable before the next; a .gone-* tree that is found at start is an evict that was cut off, and is finished.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId, hex_of
from prestage.cacher.errors import Busy, Corrupt, Misconfigured, NotFound
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.artifacts import Artifacts
from prestage.cacher.store.blobs import Blobs
from prestage.cacher.store.budget import Candidate, Kind
from prestage.cacher.store.disk import Disk, remove_tree
from prestage.cacher.store.holds import Holds, described
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.locks import gate
from prestage.cacher.store.trees import Trees
from prestage.cacher.store.uses import Uses
from prestage.cacher.store.views import Views

QUARANTINED = re.compile(r"[0-9a-f]{64}\.[0-9]+(\.why)?")
"""Names of what lies in quarantine: of a blob or an ingest, a number, and why."""
SETTLE_S = 0.5
"""How long a file system may take to account for what was unlinked (xfs frees in the background)."""
_QUIET_S = 0.04
"""Without any more of it for so long, there is none to come: what lacks is open or mapped, or others have taken it."""
_LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class Parts:
    """What one store is made of."""

    layout: Layout
    disk: Disk
    blobs: Blobs
    artifacts: Artifacts
    views: Views
    holds: Holds
    trees: Trees
    uses: Uses
    now: Callable[[], float]


def free_bytes(root: Path) -> int:
    """What the file system has left for us now."""
    stat = os.statvfs(root)
    return stat.f_bavail * stat.f_frsize


class Evictor:
    """Removes artifacts and leftovers of one store. One thread at a time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def evict(self, artifact: ArtifactId, *, claimed: Collection[BlobId] = (), busy: Collection[str] = ()) -> int:
        """Let go of `artifact`; blobs in `claimed` and ingests in `busy` stay. Returns the bytes of what was removed.

        Raises:
            Busy: somebody holds it; nothing was changed.
        """
        parts = self._parts
        with gate(parts.layout.gate):
            if live := parts.holds.live(artifact):
                raise Busy(f"{artifact} is held by {described(live)}", hint="unpin it or wait; nothing was evicted")
            parts.trees.remove_dead(artifact)
            gone = parts.views.hide(artifact)
        return self.finish(artifact, gone, claimed=claimed, busy=busy)

    def finish(
        self, artifact: ArtifactId, gone: Path | None, *, claimed: Collection[BlobId] = (), busy: Collection[str] = ()
    ) -> int:
        """Everything of an evict but its beginning; idempotent. Returns the bytes of what was removed."""
        parts = self._parts
        mine = set(parts.uses.of(artifact))
        shared = parts.uses.shared(artifact, mine)
        removed = sum(parts.blobs.remove(blob) for blob in sorted(mine - shared) if blob not in claimed)
        folders = [folder for folder in self._ingests(artifact) if folder.name not in busy]
        parts.artifacts.forget(artifact)
        for folder in folders:
            removed += ingests.allocated_bytes(folder)
            ingests.drop(parts.disk, folder)
        if gone is not None:
            remove_tree(parts.disk, gone)
            # Were it brought back by a power cut, what is staged anew meanwhile would be let go of.
            parts.disk.sync_directory(parts.layout.views)
        return removed

    def _ingests(self, artifact: ArtifactId) -> Iterator[Path]:
        """Where files of `artifact` are being fetched."""
        with suppress(NotFound, Corrupt, Misconfigured):
            manifest = self._parts.artifacts.manifest(artifact)
            for file in manifest.files:
                folder = self._parts.layout.ingest(ingests.identity(manifest, file))
                if folder.exists():
                    yield folder

    def remove(self, candidate: Candidate, *, claimed: Collection[BlobId], busy: Collection[str]) -> int:
        """Let go of what `candidates` named. Returns its bytes.

        Raises:
            Busy: an artifact that is held by now.
        """
        layout = self._parts.layout
        if candidate.kind is Kind.ARTIFACT:
            return self.evict(ArtifactId(candidate.key), claimed=claimed, busy=busy)
        if candidate.kind is Kind.QUARANTINE:
            self._parts.disk.unlink(layout.quarantine / candidate.key)
        elif candidate.blobs:
            self._parts.blobs.remove(BlobId(f"blake3-tree:{candidate.key}"))
        else:
            ingests.drop(self._parts.disk, layout.ingest(candidate.key))
        return candidate.size_bytes

    def candidates(self, *, claimed: Collection[BlobId], busy: Collection[str]) -> list[Candidate]:
        """All that takes room, held or not, but for blobs in `claimed` and ingests in `busy`."""
        parts = self._parts
        names = _ref_names(parts.artifacts)
        sizes = parts.blobs.sizes()
        bound: set[str] = set()
        fetched: set[str] = set()
        found: list[Candidate] = []
        for artifact in parts.artifacts.all():
            mine = {hex_of(blob) for blob in parts.uses.of(artifact)}
            folders = {folder.name: ingests.allocated_bytes(folder) for folder in self._ingests(artifact)}
            bound |= mine
            fetched |= folders.keys()
            found.append(
                Candidate(
                    Kind.ARTIFACT,
                    artifact,
                    names.get(artifact, artifact[:19]),
                    parts.views.last_used(artifact),
                    {name: sizes.get(name, 0) for name in mine if BlobId(f"blake3-tree:{name}") not in claimed},
                    sum(size for name, size in folders.items() if name not in busy),
                    described(parts.holds.live(artifact)),
                )
            )
        found.extend(
            Candidate(Kind.LEFTOVER, name, f"blob {name[:12]}", 0.0, {name: size})
            for name, size in sizes.items()
            if name not in bound and BlobId(f"blake3-tree:{name}") not in claimed
        )
        found.extend(self._abandoned({*fetched, *busy}))
        found.extend(self._quarantined())
        return found

    def _abandoned(self, known: Collection[str]) -> Iterator[Candidate]:
        for folder in self._parts.layout.ingests.iterdir():
            if len(folder.name) == 64 and folder.name not in known and (folder / "meta").exists():
                size = ingests.allocated_bytes(folder)
                yield Candidate(Kind.LEFTOVER, folder.name, f"ingest {folder.name[:12]}", 1.0, other_bytes=size)

    def _quarantined(self) -> Iterator[Candidate]:
        for entry in os.scandir(self._parts.layout.quarantine):
            if entry.is_file(follow_symlinks=False) and QUARANTINED.fullmatch(entry.name):
                size = entry.stat(follow_symlinks=False).st_blocks * 512
                yield Candidate(Kind.QUARANTINE, entry.name, f"quarantine/{entry.name}", 0.0, other_bytes=size)


def _ref_names(artifacts: Artifacts) -> dict[str, str]:
    return {known.artifact: known.ref for known in artifacts.refs()}


def settled(root: Path, before_bytes: int, expected_bytes: int) -> int:
    """What unlinking `expected_bytes` really freed since `before_bytes` were free: less where files are still open or mapped, or
    others write. Waits while more is coming."""
    most = free_bytes(root) - before_bytes
    began = quiet_since = time.monotonic()
    while most < expected_bytes and (now := time.monotonic()) - quiet_since < _QUIET_S and now - began < SETTLE_S:
        time.sleep(_LOOK_S)
        if (freed := free_bytes(root) - before_bytes) > most:
            most, quiet_since = freed, now
    return max(0, min(most, expected_bytes))
