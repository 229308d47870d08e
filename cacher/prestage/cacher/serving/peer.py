"""A file from peers: a source of the engine, and the proof of each piece that came. Protocol: docs/serving.md.

    by blob     the peers' list of piece digests is proved against the blob's name once; then each piece is proved alone by it.
                A peer that lies is caught at its first piece, named, and asked no more; the piece comes from another.
    by ingest   while a peer is still fetching: its own digest of each piece finds damage, not malice. What the pieces come to
                is for the caller to check, by the SHA-256 or checksum that the origin states.

A peer that fails thrice in a row, has the file no more, or makes no progress is asked no more either. When none is left the
transfer ends with what each of them did; what was journaled stays, and another source goes on from there.
"""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NewType

from prestage.cacher.digests import PIECE_BYTES, BlobId, chunk_count, piece_count, piece_span
from prestage.cacher.errors import Corrupt, PrestageError, Unavailable
from prestage.cacher.net.client import HttpBody, HttpClient
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.head import content_range
from prestage.cacher.net.ports import HttpRequest, ResponseHead
from prestage.cacher.serving.protocol import PIECE_HEADER, Meta, Progress, read_meta, read_progress
from prestage.cacher.transfer.ports import Fatal, PieceRecord, Retry, Stream

IngestId = NewType("IngestId", str)
"""64 hex digits: one file at one version at one origin; `store.ingest.identity` makes it from a manifest."""
_FAILURES = 3
_WAIT_S = 2
"""Of one long-poll: how late a waiting stream hears that it shall leave."""
_STALL_S = 30.0
_META_S = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node that serves blobs."""

    url: str
    """`http://host:port`"""
    token: str = field(repr=False)

    def request(self, path: str, **headers: str) -> HttpRequest:
        """For a path below /v1/. Goes straight there, whatever proxies are set."""
        parts = urllib.parse.urlsplit(self.url)
        straight = (parts.hostname or "", parts.port or 80)
        return HttpRequest(f"{self.url}/v1/{path}", {"Authorization": f"Bearer {self.token}", **headers}, connect_to=straight)


@dataclass(slots=True, eq=False)
class _Seat:
    """What this transfer knows of one peer. `PeerSource._lock` guards it."""

    peer: Peer
    streams: int = 0
    failures: int = 0
    suspicions: int = 0
    """Pieces that came wrong, with bytes of it among them."""
    busy_until: float = 0.0
    """It said so; another is asked first until then."""
    left_because: str | None = None
    """Asked no more, and why."""
    lied: bool = False
    pieces: dict[int, bytes] = field(default_factory=dict)
    """By ingest: what it has, by its own words."""
    records: int = 0
    grew_at: float | None = None
    """By ingest: when it last had more than before, or was first asked."""
    polling: threading.Lock = field(default_factory=threading.Lock)


class PeerSource:
    """One file at some peers: a `Source` and a `Proof` of the engine. Thread-safe.

    `of` is the blob where its name is known (from a trusted place: it is what everything is proved against), else the ingest.
    """

    name = "peer"

    def __init__(
        self, client: HttpClient, peers: Sequence[Peer], of: BlobId | IngestId, size_bytes: int, *, lane: str = "peer"
    ) -> None:
        self.lane = lane
        self._client, self._of, self._size_bytes = client, of, size_bytes
        self._seats = [_Seat(peer) for peer in peers]
        self._most_json = 4096 + 100 * piece_count(size_bytes) + 32 * chunk_count(size_bytes)
        """Of an honest answer: a piece is 64 digits and its number, a chunk 32 digits."""
        self._meta: Meta | None = None
        self._lock, self._meta_lock = threading.Lock(), threading.Lock()
        self._gave: defaultdict[int, set[_Seat]] = defaultdict(set)
        """Piece -> who brought bytes of it since its start."""

    @property
    def troubles(self) -> list[str]:
        """One line for each peer that is asked no more."""
        with self._lock:
            return [f"{seat.peer.url}: {seat.left_because}" for seat in self._seats if seat.left_because is not None]

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> Stream:
        """See `transfer.ports.Source`. Asks nobody yet: that may have to wait, and a stream can be aborted."""
        return _PeerStream(self, start, stop)

    def check(self, record: PieceRecord) -> None:
        """See `transfer.ports.Proof`."""
        piece = record.piece
        with self._lock:
            givers = self._gave.pop(piece, set())
            if self._meta is not None:
                is_right, liars = self._meta.pieces[piece] == record.digest, givers
            else:
                liars = {seat for seat in givers if seat.pieces.get(piece) != record.digest}
                is_right = not liars
            if is_right:
                for seat in givers:
                    seat.failures = 0
                return
            for seat in liars:
                # Of several one may be innocent: alone, or a second time, is proof enough.
                seat.suspicions += 1
                if len(liars) == 1 or seat.suspicions > 1:
                    seat.lied, seat.left_because = True, f"its bytes of piece {piece} are not what their digest says"
        self._still_somebody()
        names = ", ".join(sorted(seat.peer.url for seat in liars))
        raise Retry(f"piece {piece} from {names} is not what its digest says", after_s=0.0)

    # -- for streams

    def begin(self, start: int, stop: int, aborted: threading.Event) -> tuple[_Seat, HttpBody]:
        """Ask a peer that has the piece for these bytes of it; waits until one has.

        Raises:
            Retry, Fatal: as sources do.
        """
        piece = start // PIECE_BYTES
        by_blob = self._of.startswith("blake3-tree:")
        if by_blob:
            self._know_pieces()
        seat = self._choose(piece) if by_blob else self._await(piece, aborted)
        first, last = start - piece * PIECE_BYTES, stop - piece * PIECE_BYTES - 1
        where = f"{'blobs' if by_blob else 'ingests'}/{self._of}/pieces/{piece}"
        request = seat.peer.request(where, Range=f"bytes={first}-{last}")
        try:
            body = self._client.open(request)
        except NetError as exc:
            raise self._failed(seat, exc) from exc
        try:
            self._judge(seat, piece, body.head, first, last)
        except BaseException:
            body.close()
            raise
        with self._lock:
            seat.streams += 1
        return seat, body

    def gave(self, seat: _Seat, start: int) -> None:
        """Bytes came, from `start` on."""
        with self._lock:
            self._gave[start // PIECE_BYTES].add(seat)

    def ended(self, seat: _Seat) -> None:
        """A stream is closed."""
        with self._lock:
            seat.streams -= 1

    def failed(self, seat: _Seat, why: NetError) -> Retry:
        """A stream broke."""
        return self._failed(seat, why)

    def _judge(self, seat: _Seat, piece: int, head: ResponseHead, first: int, last: int) -> None:
        if head.status == 206:
            start, stop = piece_span(self._size_bytes, piece)
            span = content_range(head.headers.get("content-range", ""))
            if span != (first, last + 1, stop - start):
                raise self._leave(seat, f"its answer for piece {piece} is of other bytes", lied=True)
            digest = self._meta.pieces[piece] if self._meta is not None else seat.pieces[piece]
            if head.headers.get(PIECE_HEADER.lower()) != f"blake3:{digest.hex()}":
                raise self._leave(seat, f"it has another digest for piece {piece}", lied=self._meta is not None)
            return
        if head.status in (404, 410):
            raise self._leave(seat, "it has the file no more")
        if head.status in (401, 403):
            raise self._leave(seat, f"it does not let us in ({head.status})")
        after = head.headers.get("retry-after", "")
        after_s = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else None
        if head.status == 425:
            raise Retry(f"{seat.peer.url} has not got piece {piece} yet", after_s=after_s)
        if head.status in (429, 503):
            raise self._busy(seat, head.status, 1.0 if after_s is None else after_s)
        raise self._failed(seat, f"it answered {head.status}")

    def _choose(self, piece: int) -> _Seat:
        """Who is asked: the one with the fewest streams, of those that have the piece and failed least."""
        self._still_somebody()
        with self._lock:
            now = time.monotonic()
            seats = [seat for seat in self._seats if seat.left_because is None and (self._meta or piece in seat.pieces)]
            if not seats:
                raise Retry(f"no peer has piece {piece} yet", after_s=1.0)
            return min(seats, key=lambda seat: (seat.busy_until > now, seat.failures, seat.streams))

    def _await(self, piece: int, aborted: threading.Event) -> _Seat:
        """By ingest: until some peer has journaled the piece."""
        while not aborted.is_set():
            with self._lock:
                seats = [seat for seat in self._seats if seat.left_because is None]
                if any(piece in seat.pieces for seat in seats):
                    break
            self._still_somebody()
            for seat in seats:
                self._poll(seat, piece, _WAIT_S if len(seats) == 1 else 0, aborted)
            aborted.wait(self._pause_s(seats, piece))
        if aborted.is_set():
            raise Retry("aborted")
        return self._choose(piece)

    def _pause_s(self, seats: Sequence[_Seat], piece: int) -> float:
        """Between two rounds of questions: next to none where the peer itself holds its answer back, and says nothing wrong."""
        with self._lock:
            if any(piece in seat.pieces for seat in seats):
                return 0.0
            busy = min(max(seat.busy_until - time.monotonic(), 0.0) for seat in seats)
            failures = min(seat.failures for seat in seats)
        return max(0.02 if len(seats) == 1 else 0.2, min(busy, 1.0), 0.25 * failures)

    def _poll(self, seat: _Seat, piece: int, wait_s: int, aborted: threading.Event) -> None:
        """Learn what a peer has journaled since; one thread asks, the others profit."""
        with seat.polling:
            if piece in seat.pieces or seat.left_because is not None or aborted.is_set():
                return
            request = seat.peer.request(f"ingests/{self._of}?after={seat.records}&wait={wait_s}")
            try:
                reply = self._client.fetch(request, limit_bytes=self._most_json, redirects=0, timeout_s=wait_s + _META_S)
                if reply.head.status == 200:
                    self._learn(seat, read_progress(reply.body, self._size_bytes))
                    return
                with suppress(Retry):
                    self._judge(seat, piece, reply.head, 0, 0)
            except NetError as exc:
                self._failed(seat, exc)
            except Corrupt as exc:
                self._leave(seat, exc.message, lied=True)

    def _learn(self, seat: _Seat, progress: Progress) -> None:
        with self._lock:
            now, before = time.monotonic(), len(seat.pieces)
            if progress.first != seat.records:
                seat.pieces.clear()  # it began anew
            seat.pieces.update(progress.pieces)
            seat.records, seat.failures = progress.records, 0
            if seat.grew_at is None or len(seat.pieces) > before:
                seat.grew_at = now
            if now - seat.grew_at > _STALL_S:
                seat.left_because = f"it made no progress for {_STALL_S:.0f} s"

    def _know_pieces(self) -> None:
        """By blob: fetch the list of piece digests, once, from whoever proves it."""
        with self._meta_lock:
            while self._meta is None:
                self._still_somebody()
                with self._lock:
                    seat = min((s for s in self._seats if s.left_because is None), key=lambda s: s.failures)
                try:
                    reply = self._client.fetch(
                        seat.peer.request(f"blobs/{self._of}/meta"), limit_bytes=self._most_json, redirects=0, timeout_s=_META_S
                    )
                    if reply.head.status != 200:
                        self._judge(seat, 0, reply.head, 0, 0)
                        continue
                    meta = read_meta(reply.body, BlobId(self._of))
                except NetError as exc:
                    raise self._failed(seat, exc) from exc
                except Corrupt as exc:
                    raise self._leave(seat, exc.message, lied=True) from exc
                if meta.size_bytes != self._size_bytes:
                    raise Fatal(
                        Corrupt(
                            f"{self._of} has {meta.size_bytes} bytes, not {self._size_bytes}",
                            hint="the plan that named it is wrong; fetch the file from its origin",
                        )
                    )
                self._meta = meta

    # -- who is left

    def _busy(self, seat: _Seat, status: int, after_s: float) -> Retry:
        """Not a failure: the engine's patience ends it, and fewer connections cure it."""
        with self._lock:
            now = time.monotonic()
            seat.busy_until = now + after_s
            idle = any(other.left_because is None and other.busy_until <= now for other in self._seats)
        return Retry(f"{seat.peer.url} is busy ({status})", after_s=0.0 if idle else after_s, congested=not idle)

    def _failed(self, seat: _Seat, why: NetError | str) -> Retry:
        with self._lock:
            seat.failures += 1
            if seat.failures >= _FAILURES and seat.left_because is None:
                seat.left_because = f"{seat.failures} failures in a row, the last: {why}"
        return Retry(f"{seat.peer.url}: {why}")

    def _leave(self, seat: _Seat, why: str, *, lied: bool = False) -> Retry:
        with self._lock:
            seat.left_because, seat.lied = why, lied
        return Retry(f"{seat.peer.url}: {why}", after_s=0.0)

    def _still_somebody(self) -> None:
        """Raises:
        Fatal: nobody is left to ask; Corrupt when one of them lied, else Unavailable.
        """
        with self._lock:
            if any(seat.left_because is None for seat in self._seats):
                return
            told = "; ".join(f"{seat.peer.url}: {seat.left_because}" for seat in self._seats) or "there is none"
            lied = any(seat.lied for seat in self._seats)
        error: PrestageError
        if lied:
            hint = "look at that node: `prestage verify` there; what is missing comes from the origin"
            error = Corrupt(f"no peer is left that gives {self._of} right ({told})", hint=hint)
        else:
            error = Unavailable(f"no peer is left that has {self._of} ({told})", hint="fetch what is missing from the origin")
        raise Fatal(error)


class _PeerStream:
    """See `transfer.ports.Stream`: a range inside one piece."""

    def __init__(self, source: PeerSource, start: int, stop: int) -> None:
        self._source, self._at, self._stop = source, start, stop
        self._aborted = threading.Event()
        self._begun: tuple[_Seat, HttpBody] | None = None

    def readinto(self, buffer: memoryview) -> int:
        if self._at == self._stop:
            return 0
        if self._begun is None:
            self._begun = self._source.begin(self._at, self._stop, self._aborted)
            if self._aborted.is_set():
                raise Retry("aborted")
        seat, body = self._begun
        try:
            count = body.readinto(buffer[: self._stop - self._at])
        except NetError as exc:
            if self._aborted.is_set():
                raise Retry("aborted") from exc
            raise self._source.failed(seat, exc) from exc
        if count:
            self._source.gave(seat, self._at)
        self._at += count
        return count

    def abort(self) -> None:
        self._aborted.set()
        if self._begun is not None:
            self._begun[1].abort()

    def close(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun[1].close()
            self._source.ended(begun[0])
