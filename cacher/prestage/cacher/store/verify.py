"""Reading every byte again: chunk sums and piece digests against the meta, the meta against the blob's name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.digests import CHUNK_BYTES, CHUNK_SUM_BYTES, PIECE_BYTES, BlobId, chunk_sum, piece_hasher
from prestage.cacher.errors import Corrupt
from prestage.cacher.store.blobs import BlobMeta, Blobs
from prestage.cacher.store.disk import translated
from prestage.cacher.transfer.buffers import aligned_buffer


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is not what it should be."""

    blob: BlobId
    artifacts: tuple[str, ...]
    paths: tuple[str, ...]
    why: str
    chunk_offsets: tuple[int, ...] = ()
    """Where it differs, in bytes; empty when the meta or the length is wrong."""


@dataclass(slots=True)
class VerifyReport:
    """What a verify found."""

    files: int = 0
    bytes: int = 0
    bad: list[Damage] = field(default_factory=list)
    quarantined: bool = False

    def to_json(self) -> dict[str, object]:
        """For `prestage verify --json`."""
        bad = [
            {
                "blob": damage.blob,
                "artifacts": list(damage.artifacts),
                "paths": list(damage.paths),
                "why": damage.why,
                "chunk_offsets": list(damage.chunk_offsets),
            }
            for damage in self.bad
        ]
        return {"files": self.files, "bytes": self.bytes, "bad": bad, "quarantined": self.quarantined}


def check_blob(blobs: Blobs, path: Path, blob: BlobId, on_bytes: Callable[[int], None]) -> tuple[str, Sequence[int]] | None:
    """Read a blob through one 4 MiB buffer, past the page cache where the file system allows. None: it is right.

    Raises:
        Unavailable: the disk failed.
    """
    try:
        meta = blobs.meta(blob)
    except Corrupt as exc:
        return exc.message, ()
    try:
        fd = _open(path)
        try:
            if os.fstat(fd).st_size != meta.size_bytes:
                return f"it has {os.fstat(fd).st_size} bytes instead of {meta.size_bytes}", ()
            wrong = _read(fd, meta, on_bytes)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    except OSError as exc:
        raise translated(exc, path) from exc
    return (f"{len(wrong)} of its chunks differ, the first at byte {wrong[0]}", wrong) if wrong else None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _read(fd: int, meta: BlobMeta, on_bytes: Callable[[int], None]) -> list[int]:
    buffer = aligned_buffer(CHUNK_BYTES)
    wrong: list[int] = []
    hasher = piece_hasher()
    for at in range(0, meta.size_bytes, CHUNK_BYTES):
        count = os.preadv(fd, [buffer], at)
        view = buffer[: min(count, meta.size_bytes - at)]
        chunk = at // CHUNK_BYTES * CHUNK_SUM_BYTES
        if chunk_sum(view) != meta.chunk_sums[chunk : chunk + CHUNK_SUM_BYTES]:
            wrong.append(at)
        hasher.update(view)
        end = at + len(view)
        if end % PIECE_BYTES == 0 or end == meta.size_bytes:
            if hasher.digest() != meta.pieces[at // PIECE_BYTES] and not any(w >= at - at % PIECE_BYTES for w in wrong):
                wrong.append(at - at % PIECE_BYTES)
            hasher = piece_hasher()
        on_bytes(len(view))
    return wrong
