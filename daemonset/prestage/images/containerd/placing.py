"""Blobs put where containerd keeps them, as files, and only then told to it: no byte of them goes through gRPC.

    bytes, in order ─▶ a file without a name on containerd's file system, hashed on the way
    SHA-256 right ─▶ fsync ─▶ its name: <content>/blobs/sha256/<hex> ─▶ fsync ─▶ STAT finds it there, COMMIT, on our lease

containerd takes a blob that lies there into a namespace by STAT and COMMIT (its `content_sharing_policy` "shared", the default);
it does not hash it again, so it is hashed here, and its unpacking is held against the config as ever. Where its garbage collector
was faster, or the policy is another, STAT finds nothing and the bytes are written as by `Content.write`.

A file without a name is gone with its process: what is killed leaves nothing, and begins that blob anew. Killed between name
and COMMIT, it leaves a blob that containerd removes together with the next one that it removes.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from prestage.cacher.errors import Corrupt, Denied, Full, Unavailable
from prestage.images.containerd.content import Bytes, Content, Writing, Written
from prestage.images.containerd.waiting import write_at_last
from prestage.images.names import OciDigest

_T = TypeVar("_T")
READ_BYTES = 4 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Placer:
    """See the module. `folder`: containerd's content folder, on one mount with itself. Stands where `Content` is written to."""

    def __init__(self, content: Content, folder: Path) -> None:
        self._content, self._blobs = content, folder / "blobs" / "sha256"

    async def write(self, writing: Writing, source: Bytes) -> Written:
        """As `Content.write`.

        Raises:
            Corrupt: what comes from `source` is not the blob; nothing is kept.
            Full: containerd's file system is.
            PrestageError: as `Content.write`.
        """
        digest = writing.blob.digest
        if await self._content.info(digest) is not None:
            return await write_at_last(self._content, writing, source)
        with _unnamed(self._blobs) as fd:
            if await self._filled(fd, writing, source) != digest:
                raise Corrupt("a layer is not what its digest says", hint="it is fetched again")
            writing.fed()
            await _to_its_end(partial(self._named, fd, digest))
            return await write_at_last(self._content, writing, _File(fd))

    async def _filled(self, fd: int, writing: Writing, source: Bytes) -> OciDigest:
        hasher, offset = hashlib.sha256(), 0

        def take(data: memoryview, at: int) -> None:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], at + done)
            hasher.update(data)

        while offset < writing.blob.size_bytes:
            data = await source.read(offset, min(READ_BYTES, writing.blob.size_bytes - offset))
            with _translated(self._blobs):
                await _to_its_end(partial(take, data, offset))
            offset += len(data)
            writing.told(offset)
        return OciDigest(f"sha256:{hasher.hexdigest()}")

    def _named(self, fd: int, digest: OciDigest) -> None:
        with _translated(self._blobs):
            os.fchmod(fd, 0o444)
            os.fsync(fd)
            folder = os.open(self._blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(FileExistsError):  # of another namespace: those are the same bytes
                    # a folder's descriptor is what makes os.link follow the name under /proc
                    os.link(f"/proc/self/fd/{fd}", digest.partition(":")[2], dst_dir_fd=folder, follow_symlinks=True)
                os.fsync(folder)
            finally:
                os.close(folder)


class _File:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def read(self, offset: int, size_bytes: int) -> memoryview:
        data = await _to_its_end(partial(os.pread, self._fd, size_bytes, offset))
        if not data:
            raise Unavailable("a layer's file ended early", hint="see the disk under containerd")
        return memoryview(data)

    async def arrival(self) -> None:
        return


@contextmanager
def _unnamed(folder: Path) -> Iterator[int]:
    with _translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


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


async def _to_its_end(work: Callable[[], _T]) -> _T:
    """In a thread, also when the caller is cancelled meanwhile: file and memory are not its own before."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # what came of it is nobody's any more
        raise
