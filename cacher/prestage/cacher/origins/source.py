"""An origin as a source of the engine: ranged GETs checked against what was pinned, or reads of a local file.

What is checked before the first byte is handed over: the status, Content-Range's span and total, Content-Length, the ETag and
the version, and that nobody compressed the body. Anything else goes to the origin's `judge`.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from prestage.cacher.errors import PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.errors import AddressRefused, NetError
from prestage.cacher.net.head import content_range
from prestage.cacher.net.ports import Body, Client, HttpRequest, ResponseHead
from prestage.cacher.origins.asking import AskedToWait, refused
from prestage.cacher.origins.ports import FileRead, Next, Origin
from prestage.cacher.transfer.ports import Changed, Fatal, NoRanges, Retry, Stream

_JUDGED_BYTES = 4096
_LOAD_REASONS = ("refused", "connect-timeout", "stalled")
"""Failures that fewer connections may cure."""


@dataclass(slots=True)
class HttpStream:
    """A checked body, its failures translated."""

    body: Body
    path: str
    left: int | None = None
    """Of a whole file whose length the server does not state: bytes until it must end. None: the head was checked for it."""

    def readinto(self, buffer: memoryview) -> int:
        """See `transfer.ports.Stream`."""
        try:
            count = self.body.readinto(buffer if self.left is None else buffer[: self.left])
            if self.left is not None:
                self.left -= count
                if not self.left and self.body.read_some(memoryview(bytearray(1))):
                    # Before the last bytes are handed over: nothing of a longer file counts as this one.
                    raise Changed(f"{self.path} is longer now than when it was resolved")
            return count
        except NetError as exc:
            raise _translated(self.path, exc) from exc

    def abort(self) -> None:
        """From any thread."""
        self.body.abort()

    def close(self) -> None:
        """Idempotent."""
        self.body.close()


@dataclass(slots=True)
class FileStream:
    """A range of a local file that must not change meanwhile."""

    fd: int
    at: int
    stop: int
    expected: FileRead

    def readinto(self, buffer: memoryview) -> int:
        """See `transfer.ports.Stream`."""
        view = buffer[: self.stop - self.at]
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self.fd, [view[done:]], self.at + done)
            except OSError as exc:
                hint = "check that file and the disk under it"
                raise Fatal(Unavailable(f"{self.expected.path} cannot be read: {exc.strerror}", hint=hint)) from exc
            if not count:
                raise Changed("the file became shorter")
            done += count
        _check_unchanged(self.fd, self.expected)
        self.at += done
        return done

    def abort(self) -> None:
        """A local read ends by itself."""
        self.stop = self.at

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class OriginSource:
    """One file of a manifest at its origin. Thread-safe."""

    origin: Origin
    client: Client
    manifest: Manifest
    file: FileEntry
    lane: str
    name: str = field(default="origin")

    def open(self, start: int, stop: int, leaving: threading.Event | None = None) -> Stream:
        """See `transfer.ports.Source`."""
        try:
            request = self.origin.request(self.manifest, self.file)
        except AskedToWait as exc:
            raise Retry(str(exc), after_s=exc.after_s, congested=True) from exc
        except PrestageError as exc:
            raise Retry(str(exc)) if isinstance(exc, Unavailable) else Fatal(exc) from exc
        if isinstance(request, FileRead):
            return self._open_file(request, start, stop)
        return self._open_http(request, start, stop, leaving)

    def _open_file(self, read: FileRead, start: int, stop: int) -> FileStream:
        try:
            fd = os.open(read.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            raise Changed(f"{self.file.path} cannot be opened any more: {exc.strerror}") from exc
        try:
            _check_unchanged(fd, read)
            os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_SEQUENTIAL)
        except BaseException:
            os.close(fd)
            raise
        return FileStream(fd, start, stop, read)

    def _open_http(self, request: HttpRequest, start: int, stop: int, leaving: threading.Event | None) -> HttpStream:
        headers = {**request.headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            body = self.client.open(HttpRequest(request.url, headers, request.method, request.connect_to), leaving)
        except NetError as exc:
            raise _translated(self.file.path, exc) from exc
        try:
            self._check(body, start, stop)
        except BaseException:
            body.close()
            raise
        is_unframed = body.head.status == 200 and body.length is None
        return HttpStream(body, self.file.path, self.file.size_bytes if is_unframed else None)

    def _check(self, body: Body, start: int, stop: int) -> None:
        head, size_bytes = body.head, self.file.size_bytes
        if head.status not in (200, 206):
            self._judge(body)
        coding = head.headers.get("content-encoding", "")
        # S3 transforms nothing: there the header is what the uploader wrote, or an `aws-chunked` that a server forgot to strip.
        if coding not in ("identity", "") and not self.manifest.authority.startswith("s3:"):
            raise Retry(f"the server compressed the body ({coding[:20]}) although identity was asked")
        self._check_version(head)
        if head.status == 200:
            self._check_whole(body, start, stop)
            return
        span = content_range(head.headers.get("content-range", ""))
        # A server may answer with a shorter range than was asked (RFC 9110, 15.3.7): the rest is asked for again.
        if span is None or span[0] != start or span[1] > stop:
            shown = head.headers.get("content-range", "none")[:60]
            raise Retry(f"asked for bytes {start}-{stop - 1}, the server's Content-Range is {shown!r}")
        if span[2] is not None and span[2] != size_bytes:
            raise Changed(f"{self.file.path} has {span[2]} bytes now, not {size_bytes}")
        if body.length is not None and body.length != span[1] - span[0]:
            raise Retry(f"the server says {body.length} bytes for a range of {span[1] - span[0]}")

    def _check_whole(self, body: Body, start: int, stop: int) -> None:
        if body.length is not None and body.length != self.file.size_bytes:
            raise Changed(f"{self.file.path} has {body.length} bytes now, not {self.file.size_bytes}")
        if start != 0 or stop != self.file.size_bytes:
            raise NoRanges(f"{self.file.path} came whole although a range was asked")

    def _check_version(self, head: ResponseHead) -> None:
        etag = head.headers.get("etag")
        if self.file.etag and etag and etag.removeprefix("W/") != self.file.etag.removeprefix("W/"):
            raise Changed(f"{self.file.path} has another ETag now")
        modified = head.headers.get("last-modified")
        if not self.file.etag and self.file.modified and modified and modified != self.file.modified:
            raise Changed(f"{self.file.path} has another Last-Modified now")
        version = head.headers.get("x-amz-version-id")
        if self.file.version and version and version != self.file.version:
            raise Changed(f"{self.file.path} has another version now")

    def _judge(self, body: Body) -> None:
        scratch = memoryview(bytearray(_JUDGED_BYTES))
        try:
            count = body.readinto(scratch)
        except NetError:
            count = 0
        verdict = self.origin.judge(self.file, body.head, bytes(scratch[:count]))
        if verdict.next is Next.FATAL:
            raise Fatal(verdict.error or Unavailable(f"{self.file.path}: {verdict.why}"))
        if verdict.next is Next.CHANGED:
            raise Changed(verdict.why)
        if verdict.next is Next.NO_RANGES:
            raise NoRanges(verdict.why)
        if verdict.next is Next.REFRESH:
            self.origin.refresh(self.file)
        raise Retry(verdict.why, after_s=verdict.after_s, congested=verdict.congested)


def _translated(path: str, exc: NetError) -> Retry | Fatal:
    if isinstance(exc, AddressRefused):
        return Fatal(refused(path, exc))
    if not exc.retryable:
        return Fatal(Unavailable(f"{path}: {exc}"))
    return Retry(str(exc), congested=exc.reason in _LOAD_REASONS)


def _check_unchanged(fd: int, read: FileRead) -> None:
    now = os.fstat(fd)
    if (now.st_size, now.st_mtime_ns) != (read.size_bytes, read.modified_ns):
        raise Changed(f"{read.path} changed while it was read")
