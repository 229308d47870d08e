"""What the engine's tests move bytes between: a sink in memory and an origin that is one URL."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from prestage.cacher.digests import piece_count, piece_span
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.ports import HttpRequest, ResponseHead
from prestage.cacher.origins.ports import FileRead, Next, Selection, Verdict
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.transfer.flight import BLOCK_BYTES, Transfer
from prestage.cacher.transfer.ports import PieceRecord


class MemorySink:
    """A sink that checks the contract: aligned offsets, no byte written twice, journaled only when whole."""

    def __init__(self, size_bytes: int, checksum_algorithm: str | None = None) -> None:
        self.size_bytes = size_bytes
        self.checksum_algorithm = checksum_algorithm
        self.data = bytearray(size_bytes)
        self.written = 0
        self.journal_calls: list[list[int]] = []
        self.durable: dict[int, PieceRecord] = {}
        self.fails: Exception | None = None
        self._lock = threading.Lock()

    def journaled(self) -> Collection[int]:
        return list(self.durable)

    def write(self, buffer: memoryview, offset: int) -> None:
        if self.fails is not None:
            raise self.fails
        assert offset % BLOCK_BYTES == 0
        assert len(buffer) % BLOCK_BYTES == 0 or offset + len(buffer) == self.size_bytes
        with self._lock:
            self.data[offset : offset + len(buffer)] = buffer
            self.written += len(buffer)

    def read(self, buffer: memoryview, offset: int) -> int:
        part = self.data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def journal(self, records: Sequence[PieceRecord]) -> None:
        self.journal_calls.append([record.piece for record in records])
        for record in records:
            start, stop = piece_span(self.size_bytes, record.piece)
            assert record.size_bytes == stop - start
            assert record.piece not in self.durable
            self.durable[record.piece] = record

    @property
    def is_whole(self) -> bool:
        return sorted(self.durable) == list(range(piece_count(self.size_bytes)))


@dataclass
class UrlOrigin:
    """Serves one file at `url`; judges as a plain web server's client would."""

    url: str
    refreshed: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def resolve(self, selection: Selection) -> Manifest:
        raise AssertionError("the engine resolves nothing")

    def request(self, manifest: Manifest, file: FileEntry) -> HttpRequest | FileRead:
        return HttpRequest(self.url, {**self.headers, **({"If-Match": file.etag} if file.etag else {})})

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        if head.status == 412:
            return Verdict(Next.CHANGED, f"{file.path} changed")
        if head.status in (429, 503):
            after = head.headers.get("retry-after")
            return Verdict(Next.RETRY, f"status {head.status}", float(after) if after else None, congested=True)
        if head.status == 403:
            return Verdict(Next.REFRESH, "expired")
        if head.status == 404:
            return Verdict(Next.FATAL, "gone", error=FileNotFoundError(file.path))
        return Verdict(Next.RETRY, f"status {head.status}")

    def refresh(self, file: FileEntry) -> None:
        self.refreshed += 1


def transfer_of(
    url: str, size_bytes: int, *, client: HttpClient, sink: MemorySink | None = None, etag: str | None = None, lane: str = "lane"
) -> tuple[Transfer, MemorySink]:
    """One transfer of `url` into memory, and its sink."""
    sink = sink or MemorySink(size_bytes)
    file = FileEntry("model.bin", size_bytes, etag=etag)
    manifest = manifest_of("test:", "", [file])
    return Transfer("model.bin", OriginSource(UrlOrigin(url), client, manifest, file, lane), sink), sink
