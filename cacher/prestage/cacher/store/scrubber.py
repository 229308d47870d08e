"""The scrubber: every blob read again, a bit at a time, what was known to be right longest ago first.

It is a cursor without a clock or a thread: whoever drives it chooses rate and priority by how much it asks for and how often.
It holds no lock and, between steps, no file: a blob that is evicted meanwhile is simply gone, its room is free at once.
Chunk sums are compared (xxh3: finds damage); piece digests only where the meta was lost and is made again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prestage.cacher.digests import CHUNK_BYTES, CHUNK_SUM_BYTES, PIECE_BYTES, BlobId, chunk_sum, piece_hasher
from prestage.cacher.errors import Corrupt
from prestage.cacher.store.blobs import BlobMeta
from prestage.cacher.store.chunks import UNREADABLE, ChunkFile, is_right_on_disk, opened
from prestage.cacher.store.disk import translated
from prestage.cacher.store.eviction import Parts
from prestage.cacher.store.quarantine import DamageEvent, Identity, Quarantine


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did."""

    bytes: int = 0
    """Read."""
    blobs: int = 0
    """Found right, to their end."""
    events: tuple[DamageEvent, ...] = ()
    is_idle: bool = False
    """The pass is over, nothing more is due: ask again later, which begins the next."""


@dataclass(slots=True)
class _Cursor:
    """How far one blob was read."""

    blob: BlobId
    identity: Identity | None = None
    meta: BlobMeta | None = None
    at: int = 0
    pieces: list[bytes] = field(default_factory=list)
    sums: bytearray = field(default_factory=bytearray)
    """With the pieces: what a lost meta is made of."""


class Scrubber:
    """See the module. One thread at a time. The owner's."""

    def __init__(self, parts: Parts, quarantine: Quarantine) -> None:
        self._parts, self._quarantine = parts, quarantine
        self._due: list[BlobId] = []
        """Of this pass, the one to be read next last."""
        self._cursor: _Cursor | None = None
        self._is_passing = False

    def step(self, budget_bytes: int, *, older_than_s: float = 0.0) -> Step:
        """Go on for `budget_bytes`, rounded up to whole chunks (pieces, where a meta was lost). A pass reads what was due when it
        began: blobs that were last known to be right at least `older_than_s` ago.

        Raises:
            Unavailable: the disk failed otherwise than by losing a blob's bytes.
        """
        read = blobs = 0
        events: list[DamageEvent] = []
        if not self._is_passing:
            self._begin_pass(self._parts.now() - older_than_s)
        while read < budget_bytes:
            if self._cursor is None and self._due:
                self._cursor = _Cursor(self._due.pop())
            if self._cursor is None:
                self._is_passing = False
                return Step(read, blobs, tuple(events), is_idle=True)
            count, found = self._advance(self._cursor, budget_bytes - read)
            read += count
            if found is not None:
                self._cursor = None
                blobs += found.is_right
                events += [found.event] if found.event is not None else []
        return Step(read, blobs, tuple(events))

    def oldest_verified_at(self) -> float | None:
        """When the blob that waits longest was last known to be right, in seconds since the epoch; None: there is no blob. Lists
        all blobs.
        """
        return min(self._parts.blobs.last_verified().values(), default=None)

    def _begin_pass(self, before: float) -> None:
        known = self._parts.blobs.last_verified()
        due = sorted(((at, blob) for blob, at in known.items() if at <= before), reverse=True)
        self._due = [blob for _, blob in due]
        self._is_passing = True

    def _advance(self, cursor: _Cursor, budget_bytes: int) -> tuple[int, _Found | None]:
        path = self._parts.layout.blob(cursor.blob)
        try:
            with opened(path) as file:
                if cursor.identity is None:
                    self._begin(cursor, file)
                elif cursor.identity != file.identity:
                    return 0, _Found()  # evicted and fetched anew since: that was verified as it came
                return self._read(cursor, file, budget_bytes)
        except FileNotFoundError:
            return 0, _Found()
        except OSError as exc:
            raise translated(exc, path) from exc

    def _begin(self, cursor: _Cursor, file: ChunkFile) -> None:
        cursor.identity = file.identity
        try:
            cursor.meta = self._parts.blobs.meta(cursor.blob)
        except Corrupt:
            cursor.meta = None

    def _read(self, cursor: _Cursor, file: ChunkFile, budget_bytes: int) -> tuple[int, _Found | None]:
        if cursor.meta is not None and file.size_bytes != cursor.meta.size_bytes:
            return 0, self._condemned(cursor, f"it has {file.size_bytes} bytes instead of {cursor.meta.size_bytes}")
        one = self._chunk if cursor.meta is not None else self._piece
        start = cursor.at
        while cursor.at < file.size_bytes and cursor.at - start < budget_bytes:
            if why := one(cursor, file):
                return cursor.at - start, self._condemned(cursor, why)
        if cursor.at < file.size_bytes:
            return cursor.at - start, None
        return cursor.at - start, self._finished(cursor, file.size_bytes)

    @staticmethod
    def _chunk(cursor: _Cursor, file: ChunkFile) -> str:
        assert cursor.meta is not None
        number = cursor.at // CHUNK_BYTES * CHUNK_SUM_BYTES
        if not is_right_on_disk(file, cursor.at, cursor.meta.chunk_sums[number : number + CHUNK_SUM_BYTES]):
            return "a chunk of it differs"
        cursor.at = min(cursor.at + CHUNK_BYTES, file.size_bytes)
        return ""

    @staticmethod
    def _piece(cursor: _Cursor, file: ChunkFile) -> str:
        hasher = piece_hasher()
        end = min(cursor.at + PIECE_BYTES, file.size_bytes)
        for at in range(cursor.at, end, CHUNK_BYTES):
            try:
                view = file.from_disk(at)
            except OSError as exc:
                if exc.errno in UNREADABLE:
                    return "the disk cannot read it"
                raise
            hasher.update(view)
            cursor.sums += chunk_sum(view)
        cursor.pieces.append(hasher.digest())
        cursor.at = end
        return ""

    def _finished(self, cursor: _Cursor, size_bytes: int) -> _Found:
        blobs = self._parts.blobs
        if cursor.meta is None:
            found = BlobMeta(size_bytes, tuple(cursor.pieces), bytes(cursor.sums))
            if found.blob != cursor.blob:
                return self._condemned(cursor, "its meta is gone, and its bytes are not of its name")
            if self._quarantine.identity(cursor.blob) != cursor.identity:
                return _Found()
            blobs.restore_meta(found)
        blobs.note_verified(cursor.blob, self._parts.now())
        return _Found(is_right=True)

    def _condemned(self, cursor: _Cursor, why: str) -> _Found:
        assert cursor.identity is not None
        return _Found(self._quarantine.condemn(cursor.blob, cursor.identity, why, cursor.at))


@dataclass(frozen=True, slots=True)
class _Found:
    """How the reading of a blob ended; neither: it was gone."""

    event: DamageEvent | None = None
    is_right: bool = False
