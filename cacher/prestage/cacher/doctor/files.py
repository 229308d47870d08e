"""Probes of a file system by doing: links, clones, O_DIRECT, preallocation, syncs, rates.

The files have no name (O_TMPFILE), so that whatever kills us leaves nothing behind; where there is no such thing they lose
their name at once. Two links have one for a moment: `.prestage-doctor-*`, removed by the next run if this one was killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prestage.cacher.doctor.facts import DiskFacts, FileFacts
from prestage.cacher.transfer.buffers import aligned_buffer

_FICLONE = 0x40049409
"""linux/fs.h."""
_BLOCKS = (512, 4096, 65536)
_SYNCS = 15
_SYNCS_S = 3.0
RATE_BYTES = 256 << 20
RATE_S = 4.0
"""Each way, at most."""
_PORTION = 4 << 20
_SPARE = 8
"""No more than this part of what is free is written."""
_libc = ctypes.CDLL(None, use_errno=True)
PREFIX = ".prestage-doctor-"


def probe_files(folder: Path) -> FileFacts:
    """Try everything once; what raises becomes `error`, what says no becomes False."""
    try:
        clean(folder)
        with _nameless(folder) as fd:
            os.pwrite(fd, bytes(8192), 0)
            middle, worst = _syncs(fd)
            return FileFacts(
                hardlinks=_links(folder),
                reflinks=_clones(folder, fd),
                direct_alignment=_alignment(folder),
                preallocates=_libc.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(1 << 20)) == 0,
                fsync_s=middle,
                fsync_worst_s=worst,
            )
    except OSError as exc:
        return FileFacts(error=exc.strerror or str(exc))


def clean(folder: Path) -> None:
    """Remove what a killed run may have left."""
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            path.unlink()


@contextmanager
def _nameless(folder: Path, *, direct: bool = False) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
    try:
        fd = os.open(folder, flags | os.O_TMPFILE, 0o600)
    except OSError:
        if direct:
            raise
        path = folder / f"{PREFIX}{uuid.uuid4().hex}"
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        path.unlink()
    try:
        yield fd
    finally:
        os.close(fd)


def _links(folder: Path) -> bool:
    one, other = (folder / f"{PREFIX}{uuid.uuid4().hex}" for _ in range(2))
    try:
        os.close(os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.link(one, other)
        return one.stat().st_nlink == 2
    except OSError:
        return False
    finally:
        for path in (one, other):
            with suppress(OSError):
                path.unlink()


def _clones(folder: Path, fd: int) -> bool:
    with _nameless(folder) as copy:
        try:
            fcntl.ioctl(copy, _FICLONE, fd)
        except OSError:
            return False
        return True


def _alignment(folder: Path) -> int:
    """The smallest block that O_DIRECT really writes and reads back; 0: none."""
    try:
        with _nameless(folder, direct=True) as fd:
            return next((block for block in _BLOCKS if _takes(fd, block)), 0)
    except OSError:
        return 0


def _takes(fd: int, block: int) -> bool:
    buffer = aligned_buffer(2 * block)
    view = buffer[block : 2 * block]
    view[:] = os.urandom(block)
    written = bytes(view)
    try:
        if os.pwrite(fd, view, block) != block:
            return False
        view[:] = bytes(block)
        return os.preadv(fd, [view], block) == block and bytes(view) == written
    except OSError:
        return False


def _syncs(fd: int) -> tuple[float, float]:
    """Seconds of a small write made durable: in the middle and at worst."""
    took, began = list[float](), time.monotonic()
    for index in range(_SYNCS):
        start = time.monotonic()
        os.pwrite(fd, os.urandom(4096), index * 4096)
        os.fdatasync(fd)
        took.append(time.monotonic() - start)
        if time.monotonic() - began > _SYNCS_S:
            break
    return statistics.median(took), max(took)


def probe_disk(folder: Path, *, quick: bool) -> DiskFacts:
    """Read-ahead of the device, and how fast it writes and reads a quarter of a gigabyte, if there is room for that."""
    ahead = read_ahead_bytes(folder)
    if quick:
        return DiskFacts(ahead, why="--quick")
    room = os.statvfs(folder)
    size = min(RATE_BYTES, room.f_bavail * room.f_frsize // _SPARE // _PORTION * _PORTION)
    if size < _PORTION:
        return DiskFacts(ahead, why="there is no room to try it")
    try:
        return _rates(folder, size, ahead)
    except OSError as exc:
        return DiskFacts(ahead, why=exc.strerror or str(exc))


def _rates(folder: Path, size: int, ahead: int | None) -> DiskFacts:
    direct = _alignment(folder) > 0
    buffer = aligned_buffer(_PORTION)
    buffer[:] = os.urandom(_PORTION)
    with _nameless(folder, direct=direct) as fd:
        began = time.monotonic()
        written = 0
        while written < size and time.monotonic() - began < RATE_S:
            buffer[:8] = written.to_bytes(8, "little")  # no two portions alike
            written += os.pwrite(fd, buffer, written)
        os.fdatasync(fd)
        write_s = time.monotonic() - began
        if not direct:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        began, got = time.monotonic(), 0
        while got < written and time.monotonic() - began < RATE_S and (count := os.preadv(fd, [buffer], got)):
            got += count
        read_s = time.monotonic() - began
    return DiskFacts(ahead, written / max(write_s, 1e-6), got / max(read_s, 1e-6), written)


def read_ahead_bytes(folder: Path) -> int | None:
    """Of the block device, or of what stands in its place (btrfs, network file systems)."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    block = Path("/sys/dev/block") / number
    for path in (block / "queue/read_ahead_kb", block / "../queue/read_ahead_kb", Path(f"/sys/class/bdi/{number}/read_ahead_kb")):
        with suppress(OSError, ValueError):
            return int(path.read_text()) * 1024
    return None
