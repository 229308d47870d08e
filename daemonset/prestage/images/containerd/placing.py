"""Blobs put where containerd keeps them, as files, and only then told to it: no byte of them goes through gRPC.

    bytes, as they come ─▶ a file without a name on containerd's file system (landing.py, which hashes it)
    SHA-256 right ─▶ fsync ─▶ its name: <content>/blobs/sha256/<hex> ─▶ fsync ─▶ STAT finds it there, COMMIT, on our lease

containerd takes a blob that lies there into a namespace by STAT and COMMIT (its `content_sharing_policy` "shared", the default);
it does not hash it again, so it is hashed here, and its unpacking is held against the config as ever. Where its garbage collector
was faster, or the policy is another, STAT finds nothing and the bytes are written as by `Content.write`.

A file without a name is gone with its process: what is killed leaves nothing, and begins that blob anew. Killed between name
and COMMIT, it leaves a blob that containerd removes together with the next one that it removes.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.ending import to_its_end
from prestage.cacher.errors import Denied, Full, Unavailable
from prestage.images.containerd.content import Content, Writing, Written
from prestage.images.containerd.waiting import write_at_last
from prestage.images.descriptors import Descriptor

_LIBC = ctypes.CDLL(None)
_SYNC_WRITE = 2
"""SYNC_FILE_RANGE_WRITE."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Unnamed:
    """A file without a name, in `folder`, for one blob. Thread-safe; close it."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._folder, self.size_bytes = folder, size_bytes
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def write(self, data: memoryview, offset: int) -> None:
        """All of it."""
        done = 0
        with _translated(self._folder):
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)

    def read(self, buffer: memoryview, offset: int) -> int:
        """Fewer bytes than fit only at the end. Read in order, it goes to the disk behind the reader: `link` waits for less."""
        if offset and not offset % PIECE_BYTES:
            _begin_writing_out(self._fd, offset - PIECE_BYTES, PIECE_BYTES)
        with _translated(self._folder):
            return os.preadv(self._fd, [buffer], offset)

    def link(self, name: str) -> None:
        """Synced, then with that name; then that is synced too. Idempotent."""
        with _translated(self._folder):
            os.fchmod(self._fd, 0o444)
            os.fsync(self._fd)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(FileExistsError):  # of another namespace: those are the same bytes
                    # a folder's descriptor is what makes os.link follow the name under /proc
                    os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=folder, follow_symlinks=True)
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Idempotent. What has no name is gone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Placer:
    """See the module. `folder`: containerd's content folder, on one mount with itself."""

    def __init__(self, content: Content, folder: Path) -> None:
        self._content, self._blobs = content, folder / "blobs" / "sha256"

    def file(self, blob: Descriptor) -> Unnamed:
        """For its bytes."""
        return Unnamed(self._blobs, blob.size_bytes)

    async def put(self, writing: Writing, file: Unnamed) -> Written:
        """Make a file that is whole, and is what the blob's digest says, the content store's.

        Raises:
            Full: containerd's file system is.
            Corrupt, PrestageError: as `Content.write`.
        """
        await to_its_end(asyncio.to_thread(file.link, writing.blob.digest.partition(":")[2]))
        return await write_at_last(self._content, writing, _Reading(file))


class _Reading:
    def __init__(self, file: Unnamed) -> None:
        self._file = file

    async def read(self, offset: int, size_bytes: int) -> memoryview:
        data = memoryview(bytearray(size_bytes))
        if not (count := await to_its_end(asyncio.to_thread(self._file.read, data, offset))):
            raise Unavailable("a layer's file ended early", hint="see the disk under containerd")
        return data[:count]

    async def arrival(self) -> None:
        return


def _begin_writing_out(fd: int, offset: int, size_bytes: int) -> None:
    """A hint: what becomes of it, `fsync` says. Python has no call for it."""
    _LIBC.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size_bytes), _SYNC_WRITE)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise Full(f"{folder}: {exc.strerror}", hint="make room on containerd's file system") from exc
        if isinstance(exc, PermissionError):
            raise Denied(f"{folder}: {exc.strerror}", hint="putting layers in place takes containerd's folder, as root") from exc
        raise Unavailable(f"{folder}: {exc.strerror}", hint="see the disk under containerd") from exc
