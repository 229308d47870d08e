"""Reading every byte again: chunk sums and piece digests against the meta, the meta against the blob's name.

It reads past the page cache where the file system allows, through one 4 MiB buffer; hashing and reading release the GIL.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.digests import CHUNK_BYTES, CHUNK_SUM_BYTES, PIECE_BYTES, BlobId, chunk_sum, piece_hasher
from prestage.cacher.errors import Corrupt
from prestage.cacher.store.blobs import BlobMeta, Blobs
from prestage.cacher.store.disk import translated
from prestage.cacher.transfer.buffers import aligned_buffer

OFFSETS_SHOWN = 100
"""Of one file's: a disk that lost a terabyte has a quarter of a million."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob, or a view's file, that is not what it should be."""

    blob: BlobId
    artifacts: tuple[str, ...]
    paths: tuple[str, ...]
    why: str
    chunk_offsets: tuple[int, ...] = ()
    """Where it differs, in bytes; empty when the file as a whole is wrong or gone."""


@dataclass(slots=True)
class VerifyReport:
    """What a verify found."""

    files: int = 0
    """Distinct contents that were looked at."""
    bytes: int = 0
    bad: list[Damage] = field(default_factory=list)
    quarantined: bool = False
    """Damaged blobs were taken out of use: only the owner does that."""

    def to_json(self) -> dict[str, object]:
        """For `prestage verify --json`; of each file the first OFFSETS_SHOWN offsets."""
        bad = [
            {
                "blob": damage.blob,
                "artifacts": list(damage.artifacts),
                "paths": list(damage.paths),
                "why": damage.why,
                "chunk_offsets": list(damage.chunk_offsets[:OFFSETS_SHOWN]),
                "chunk_offsets_left_out": len(damage.chunk_offsets[OFFSETS_SHOWN:]),
            }
            for damage in self.bad
        ]
        return {"files": self.files, "bytes": self.bytes, "bad": bad, "quarantined": self.quarantined}


@dataclass(frozen=True, slots=True)
class Finding:
    """What reading one blob gave."""

    why: str = ""
    """Empty: its bytes are right."""
    chunk_offsets: tuple[int, ...] = ()
    lost_meta: BlobMeta | None = None
    """The bytes are right, but their meta is gone or damaged: this is what it must say."""


def check_blob(blobs: Blobs, path: Path, blob: BlobId, on_bytes: Callable[[int], None]) -> Finding:
    """Read one blob whole and compare.

    Raises:
        Unavailable: the disk failed.
    """
    try:
        found = measure(path, on_bytes)
    except FileNotFoundError:
        return Finding("it is missing")
    except OSError as exc:
        raise translated(exc, path) from exc
    try:
        meta = blobs.meta(blob)
    except Corrupt as exc:
        if found.blob == blob:
            return Finding(lost_meta=found)
        return Finding(f"{exc.message}, and its bytes are not of that name")
    if found.size_bytes != meta.size_bytes:
        return Finding(f"it has {found.size_bytes} bytes instead of {meta.size_bytes}")
    wrong = _wrong_chunks(found, meta)
    return Finding(f"{len(wrong)} of its chunks differ, the first at byte {wrong[0]}", wrong) if wrong else Finding()


def _wrong_chunks(found: BlobMeta, meta: BlobMeta) -> tuple[int, ...]:
    """Offsets of the chunks that differ; the first of a piece that differs although its sums do not."""
    width = CHUNK_SUM_BYTES
    wrong = {
        at // width * CHUNK_BYTES
        for at in range(0, len(meta.chunk_sums), width)
        if found.chunk_sums[at : at + width] != meta.chunk_sums[at : at + width]
    }
    for number, (one, other) in enumerate(zip(found.pieces, meta.pieces, strict=True)):
        start = number * PIECE_BYTES
        if one != other and not any(start <= at < start + PIECE_BYTES for at in wrong):
            wrong.add(start)
    return tuple(sorted(wrong))


def measure(path: Path, on_bytes: Callable[[int], None]) -> BlobMeta:
    """What the meta of the file's bytes must say, from reading them all.

    Raises:
        OSError: the disk failed, or there is no such file.
    """
    fd, direct = _open(path)
    try:
        size_bytes = os.fstat(fd).st_size
        buffer = aligned_buffer(CHUNK_BYTES)
        pieces, sums, hasher = [], bytearray(), piece_hasher()
        for at in range(0, size_bytes, CHUNK_BYTES):
            view = buffer[: min(os.preadv(fd, [buffer], at), size_bytes - at)]
            sums += chunk_sum(view)
            hasher.update(view)
            end = min(at + CHUNK_BYTES, size_bytes)
            if end % PIECE_BYTES == 0 or end == size_bytes:
                pieces.append(hasher.digest())
                hasher = piece_hasher()
            on_bytes(len(view))
        if not direct:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return BlobMeta(size_bytes, tuple(pieces), bytes(sums))
    finally:
        os.close(fd)


def _open(path: Path) -> tuple[int, bool]:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_DIRECT), True
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return os.open(path, flags), False
