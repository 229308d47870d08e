"""Export: a staged artifact into one file, or down a pipe.

    blobs --O_DIRECT, chunk sums checked--> buffer --O_DIRECT, in a thread of its own--> .FILE.new --fsync, rename--> FILE

A file appears whole and durable, or not at all. What is damaged in the store is told, not exported.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.archives import layout
from prestage.cacher.archives.layout import END, Label
from prestage.cacher.archives.meter import Meter
from prestage.cacher.digests import CHUNK_BYTES, CHUNK_SUM_BYTES, ArtifactId, BlobId, chunk_sum, hex_of
from prestage.cacher.errors import Corrupt, Full, Misconfigured, Unavailable
from prestage.cacher.manifest import Manifest
from prestage.cacher.origins.ports import Selection
from prestage.cacher.staging import Watcher
from prestage.cacher.store.blobs import BlobMeta
from prestage.cacher.store.budget import shown
from prestage.cacher.store.disk import sync_directory, translated
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.buffers import aligned_buffer
from prestage.cacher.transfer.ports import Cancelled


@dataclass(frozen=True, slots=True)
class Exported:
    """An archive that was written."""

    artifact: ArtifactId
    ref: str
    files: int
    bytes: int
    """Of the archive."""
    seconds: float


class _Out:
    """Where an archive goes: `write` takes any bytes. A file is written past the page cache, by a thread of its own."""

    def __init__(self, fd: int, *, is_file: bool) -> None:
        self._fd, self._is_file = fd, is_file
        self._buffers = [aligned_buffer(CHUNK_BYTES) for _ in range(2)]
        self._filled = self._offset = self.bytes = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="prestage-export")
        self._flying: Future[None] | None = None

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self.bytes += len(view)
        while view:
            count = min(len(view), CHUNK_BYTES - self._filled)
            self._buffers[0][self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == CHUNK_BYTES:
                self._flush()

    def finish(self) -> None:
        """Everything is written; a file has its length and is durable."""
        if self._filled:
            self._flush()
        self._wait()
        if self._is_file:
            os.ftruncate(self._fd, self.bytes)
            os.fsync(self._fd)

    def close(self) -> None:
        self._writer.shutdown()

    def _flush(self) -> None:
        self._wait()
        # O_DIRECT takes whole blocks: what is behind the end is cut off in `finish`.
        length = -(-self._filled // 4096) * 4096 if self._is_file else self._filled
        self._flying = self._writer.submit(self._put, self._buffers[0][:length], self._offset)
        self._offset += self._filled
        self._filled = 0
        self._buffers.reverse()

    def _put(self, view: memoryview, offset: int) -> None:
        while view:
            count = os.pwrite(self._fd, view, offset) if self._is_file else os.write(self._fd, view)
            offset += count
            view = view[count:]

    def _wait(self) -> None:
        if self._flying is not None:
            self._flying.result()
        self._flying = None


def export(
    store: Store,
    artifact: ArtifactId,
    to: Path | int,
    *,
    ref: str = "",
    selection: Selection | None = None,
    force: bool = False,
    watcher: Watcher | None = None,
    cancel: threading.Event | None = None,
) -> Exported:
    """Write a staged artifact to the file `to`, or to the descriptor `to`, which stays open. Held meanwhile. A file appears whole
    and durable, or not at all. `ref` and `selection` are remembered by whoever imports it.

    Raises:
        NotFound, Corrupt: it is not staged, or damaged.
        Misconfigured: the file exists and `force` was not asked for, or cannot be written.
        Full: it does not fit there.
        Unavailable: a disk failed, or nobody reads any more.
    """
    began = time.monotonic()
    store.path(artifact)
    hold = store.hold(artifact, kind="run", note="prestage export")
    try:
        manifest, binding = store.manifest(artifact), dict(store.binding(artifact))
        patterns = selection or Selection()
        label = Label(artifact, ref, patterns.include, patterns.exclude)
        metas = {blob: store.meta(blob) for blob in layout.in_order(manifest, binding)}
        job = _Export(store, label, manifest, binding, metas, watcher or Watcher(), cancel or threading.Event())
        size_bytes = job.to_descriptor(to) if isinstance(to, int) else job.to_file(to, force=force)
    finally:
        store.drop_hold(artifact, hold)
    return Exported(artifact, ref, len(manifest.files), size_bytes, time.monotonic() - began)


@dataclass(slots=True)
class _Export:
    store: Store
    label: Label
    manifest: Manifest
    binding: dict[str, BlobId]
    metas: Mapping[BlobId, BlobMeta]
    watcher: Watcher
    cancel: threading.Event

    def to_descriptor(self, fd: int) -> int:
        try:
            return self._to(fd, is_file=False)
        except BrokenPipeError as exc:
            raise Unavailable(
                "the export was cut off: nobody reads it any more", hint="check the command behind the pipe"
            ) from exc
        except OSError as exc:
            raise translated(exc, Path("stdout")) from exc

    def to_file(self, path: Path, *, force: bool) -> int:
        path = path.absolute()
        if path.is_dir() or (path.exists() and not force):
            raise Misconfigured(f"{path} exists", hint="name another file, or overwrite it with --force")
        beside = path.with_name(f".{path.name}.new")
        try:
            _check_room(path.parent, sum(meta.size_bytes for meta in self.metas.values()))
            fd = _create(beside)
            try:
                size_bytes = self._to(fd, is_file=True)
            finally:
                os.close(fd)
            beside.rename(path)
            sync_directory(path.parent)
        except OSError as exc:
            beside.unlink(missing_ok=True)
            raise translated(exc, path) from exc
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        return size_bytes

    def _to(self, fd: int, *, is_file: bool) -> int:
        out = _Out(fd, is_file=is_file)
        meter = Meter(self.watcher, sum(meta.size_bytes for meta in self.metas.values()), "store")
        try:
            self._small(out, "archive.json", self.label.to_bytes())
            self._small(out, "manifest.json", self.manifest.to_bytes())
            self._small(out, "binding.json", layout.render_binding(self.label.artifact, self.binding))
            for blob, meta in self.metas.items():
                plain = BlobMeta(meta.size_bytes, meta.pieces, meta.chunk_sums)
                self._small(out, f"{hex_of(blob)}.meta", plain.to_bytes())
                out.write(layout.header(hex_of(blob), meta.size_bytes))
                for view in read_blob(self.store.blob_path(blob), meta):
                    if self.cancel.is_set():
                        raise Cancelled
                    out.write(view)
                    meter.moved(len(view))
                out.write(layout.padding(meta.size_bytes))
            out.write(END)
            out.finish()
            return out.bytes
        finally:
            out.close()

    @staticmethod
    def _small(out: _Out, name: str, data: bytes) -> None:
        out.write(layout.header(name, len(data)))
        out.write(data)
        out.write(layout.padding(len(data)))


def read_blob(path: Path, meta: BlobMeta) -> Iterator[memoryview]:
    """Its chunks in order, past the page cache, each checked. A view is good until the next one is asked for.

    Raises:
        Corrupt: a chunk is damaged, or it was taken out of use for that; what was handed out before is right.
    """
    try:
        fd = _open_direct(path, os.O_RDONLY)
    except FileNotFoundError as exc:
        raise Corrupt(f"{path} has been taken out of use meanwhile", hint="stage it again, then export it") from exc
    except OSError as exc:
        raise translated(exc, path) from exc
    try:
        buffer = aligned_buffer(CHUNK_BYTES)
        for number, at in enumerate(range(0, meta.size_bytes, CHUNK_BYTES)):
            view = buffer[: max(0, min(os.preadv(fd, [buffer], at), meta.size_bytes - at))]
            if chunk_sum(view) != meta.chunk_sums[number * CHUNK_SUM_BYTES : (number + 1) * CHUNK_SUM_BYTES]:
                raise Corrupt(f"{path} is damaged at byte {at}", hint="prestage verify, then stage it again")
            yield view
    except OSError as exc:
        raise translated(exc, path) from exc
    finally:
        os.close(fd)


def _check_room(folder: Path, needed_bytes: int) -> None:
    status = os.statvfs(folder)
    if (free := status.f_bavail * status.f_frsize) < needed_bytes:
        raise Full(
            f"an archive of {shown(needed_bytes)} does not fit into {folder}: {shown(free)} are free", hint="name another disk"
        )


def _create(path: Path) -> int:
    path.unlink(missing_ok=True)
    return _open_direct(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def _open_direct(path: Path, flags: int) -> int:
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_DIRECT, 0o644)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return os.open(path, flags & ~os.O_EXCL, 0o644)
