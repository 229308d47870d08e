"""The seam to the file system: every call by which the store changes the disk goes through here, and nothing else does.

Tests put their own `Disk` in its place: one that dies before or after the n-th call, one that records what a power cut could
lose, one that fails with ENOSPC, EIO or EROFS, one that writes short. Errors are translated once, here: Full, Misconfigured
(read-only) or Unavailable (I/O error), with the path.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from prestage.cacher.errors import Full, Misconfigured, PrestageError, Unavailable

_T = TypeVar("_T")
SYNCS_AT_ONCE = 16
_RENAME_EXCHANGE = 2
_FICLONE = 0x40049409
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """The real disk. Paths are absolute; modes are final; nothing here retries, but short writes are continued."""

    def create(self, path: Path, *, direct: bool = False) -> int:
        """A new or existing file for reading and writing, 0600. `direct`: O_DIRECT, refused with EINVAL where there is none."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_DIRECT if direct else 0)
        return self._do(lambda: os.open(path, flags, 0o600), path)

    def open(self, path: Path, *, direct: bool = False) -> int:
        """An existing file for reading only."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_DIRECT if direct else 0)
        return self._do(lambda: os.open(path, flags), path)

    def write(self, fd: int, data: bytes | memoryview, offset: int, path: Path, *, block: int = 1) -> None:
        """Write all of `data` at `offset`; goes on after a short write, at a multiple of `block`."""
        view = memoryview(data)
        while view:
            count = self._do(lambda: self.pwrite(fd, view, offset), path)  # noqa: B023 - called at once
            count -= count % block if count < len(view) else 0
            if count == 0:
                raise Unavailable(f"the disk takes no bytes for {path}", hint="check the kernel log")
            view, offset = view[count:], offset + count

    def pwrite(self, fd: int, view: memoryview, offset: int) -> int:
        """One pwrite(2); may be short."""
        return os.pwrite(fd, view, offset)

    def allocate(self, fd: int, size_bytes: int, path: Path) -> None:
        """Reserve the blocks of a file now, so that writing it cannot run out of them."""
        if size_bytes:
            self._do(lambda: os.posix_fallocate(fd, 0, size_bytes), path)

    def clone(self, fd: int, source_fd: int, path: Path) -> None:
        """Make the file `fd` the same as `source_fd` by sharing its blocks (FICLONE): at one moment, whole or not at all."""
        self._do(lambda: fcntl.ioctl(fd, _FICLONE, source_fd), path)

    def own(self, fd: int, path: Path) -> None:
        """Give the file to this process's user."""
        self._do(lambda: os.fchown(fd, os.geteuid(), os.getegid()), path)

    def truncate(self, fd: int, size_bytes: int, path: Path) -> None:
        """Set the length."""
        self._do(lambda: os.ftruncate(fd, size_bytes), path)

    def sync(self, fd: int, path: Path) -> None:
        """fsync: data and metadata."""
        self._do(lambda: os.fsync(fd), path)

    def sync_data(self, fd: int, path: Path) -> None:
        """fdatasync: data and what is needed to read it."""
        self._do(lambda: os.fdatasync(fd), path)

    def sync_directory(self, path: Path) -> None:
        """Make the names in `path` durable."""
        self._do(lambda: sync_directory(path), path)

    def sync_many(self, paths: Sequence[Path]) -> None:
        """Make these files and directories durable, several at once: a journaling file system commits once for all that wait."""

        def sync(path: Path) -> None:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

        if len(paths) <= 1:
            for path in paths:
                self._do(partial(sync, path), path)
            return
        with ThreadPoolExecutor(min(len(paths), SYNCS_AT_ONCE), thread_name_prefix="prestage-sync") as threads:
            for _ in threads.map(lambda path: self._do(partial(sync, path), path), paths):
                pass

    def seal(self, fd: int, path: Path) -> None:
        """Mode 0444: immutable from here on."""
        self._do(lambda: os.fchmod(fd, 0o444), path)

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """mkdir; an existing directory is fine."""

        def make() -> None:
            try:
                path.mkdir(mode)
            except FileExistsError:
                if not path.is_dir():
                    raise

        self._do(make, path)

    def set_mode(self, path: Path, mode: int) -> None:
        """chmod."""
        self._do(lambda: path.chmod(mode), path)

    def touch(self, path: Path, at: float) -> None:
        """Set the time of last modification: how the store remembers the last use. Not durable, and need not be."""
        self._do(lambda: os.utime(path, (at, at)), path)

    def rename(self, source: Path, target: Path) -> None:
        """Atomic; replaces a file, or an empty directory by a directory."""
        self._do(lambda: source.rename(target), target)

    def exchange(self, one: Path, other: Path) -> None:
        """Swap two names atomically (renameat2 RENAME_EXCHANGE)."""

        def swap() -> None:
            if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(one))

        self._do(swap, one)

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file."""
        self._do(lambda: os.link(source, target), target)

    def symlink(self, target: str, path: Path) -> None:
        """A symbolic link; durable with its directory."""
        self._do(lambda: path.symlink_to(target), path)

    def unlink(self, path: Path) -> None:
        """Remove a name; one that is gone is fine."""

        def remove() -> None:
            try:
                path.unlink()
            except FileNotFoundError:
                return

        self._do(remove, path)

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory; one that is gone is fine."""

        def remove() -> None:
            try:
                path.rmdir()
            except FileNotFoundError:
                return

        self._do(remove, path)

    def _do(self, call: Callable[[], _T], path: Path) -> _T:
        try:
            return call()
        except OSError as exc:
            raise translated(exc, path) from exc


@contextmanager
def disk_errors() -> Iterator[None]:
    """Around everything that others call: what looking at the disk raised, in words of ours. Also a decorator."""
    try:
        yield
    except ConnectionError:
        raise  # a callback's, not the disk's
    except OSError as exc:
        raise translated(exc, Path(str(exc.filename or "the store"))) from exc


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def translated(exc: OSError, path: Path) -> PrestageError:
    """The error of ours that says what the caller does next."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return Full(f"no space left on the disk for {path}", hint="evict something, or give the store a larger disk")
    if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Misconfigured(f"cannot write {path}: {exc.strerror}", hint="check the mount and who runs prestage")
    if exc.errno == errno.ENOENT:
        return Unavailable(f"{path} is gone", hint="was the store deleted or unmounted under a running prestage?")
    return Unavailable(
        f"the disk failed at {path}: {exc.strerror}", hint="check the kernel log; `prestage verify` says what is damaged"
    )


def write_file(disk: Disk, path: Path, data: bytes, *, private: bool = False) -> None:
    """Put a whole small file in place durably: beside it, fsync, rename, fsync of the directory. 0444, or 0600 if `private`."""
    beside = path.with_name(f".{path.name}.new")
    if beside.exists():
        disk.unlink(beside)
    new_file(disk, beside, data, private=private)
    disk.rename(beside, path)
    disk.sync_directory(path.parent)


def new_file(disk: Disk, path: Path, data: bytes, *, private: bool = False, synced: bool = True) -> None:
    """Write a small file where there is none, durably (if `synced`) but for its name: for directories that nobody sees yet."""
    fd = disk.create(path)
    try:
        disk.write(fd, data, 0, path)
        if not private:
            disk.seal(fd, path)
        if synced:
            disk.sync(fd, path)
    finally:
        os.close(fd)


def make_directories(disk: Disk, path: Path, *, above: Path) -> None:
    """Make `path` and what is missing between it and `above`, each durable in its parent."""
    missing = []
    while path != above and not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        disk.make_directory(folder)
        disk.sync_directory(folder.parent)


def remove_tree(disk: Disk, path: Path) -> None:
    """Remove a directory of ours with everything below; links are removed, never followed."""
    if path.is_symlink() or not path.is_dir():
        disk.unlink(path)
        return
    if path.stat().st_mode & 0o700 != 0o700:
        disk.set_mode(path, 0o700)
    with os.scandir(path) as entries:
        children = [Path(entry.path) for entry in entries]
    for child in children:
        remove_tree(disk, child)
    disk.remove_directory(path)
