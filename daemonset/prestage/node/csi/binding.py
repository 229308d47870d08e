"""Binding a tree to a target, read-only, and letting go of it: mount(2) itself, for an image without tools. Blocks."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.errors import Busy, Misconfigured, Unavailable
from prestage.cacher.store.composing import SIDE
from prestage.node.csi.mountinfo import MountPoint, mount_table

_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND = 1, 2, 4, 32, 4096  # linux/mount.h
_PRIVATE = 1 << 18  # what is mounted in one pod's must come to no other's that shows the same tree
_NOFOLLOW = 8  # UMOUNT_NOFOLLOW
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # asm-generic/unistd.h: the same on every machine
_AT_FDCWD, _EMPTY_PATH, _CLONE, _FROM_EMPTY_PATH = -100, 0x1000, 1, 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4  # linux/mount.h
_LIBC = ctypes.CDLL(None, use_errno=True)
_STACK_MAX = 32


@dataclass(frozen=True, slots=True)
class Bound:
    """What a target shows: a tree, and over its `.prestage/` the pod's own. Of the version before: a tree that is all its own."""

    tree: MountPoint
    own: MountPoint | None

    @property
    def is_ours(self) -> bool:
        """Whether we bound it, in part or as a whole."""
        return self.tree.is_ours

    @property
    def hold(self) -> str | None:
        """Whose it is; None: it is bound by half."""
        return self.own.hold if self.own is not None else self.tree.hold

    @property
    def is_whole(self) -> bool:
        """All is bound, and nothing of it was removed."""
        points = [self.tree] if self.own is None else [self.tree, self.own]
        return self.hold is not None and not any(point.is_gone for point in points)

    def writable(self) -> list[Path]:
        """What was to be read-only, and is not yet: whoever bound it was killed."""
        points = [self.tree] if self.own is None else [self.tree, self.own]
        return [Path(point.target) for point in points if "ro" not in point.options]


def bound(target: Path) -> Bound | None:
    """What is there now."""
    table = {point.target: point for point in mount_table()}
    tree = table.get(str(target))
    return None if tree is None else Bound(tree, table.get(str(target / SIDE)))


def show(tree: Path, own: Path | None, target: Path) -> None:
    """Make `target` show `tree`, and over its `.prestage/` what is the pod's `own`. All of it or nothing.

    Raises:
        Misconfigured, Unavailable: what the kernel said.
    """
    bind(tree, target)
    if own is not None:
        try:
            bind(own, target / SIDE)
        except BaseException:
            _LIBC.umount2(os.fsencode(target), _NOFOLLOW)
            raise


def bind(source: Path, target: Path) -> None:
    """Make `target`, a new folder, show `source`: read-only, nosuid, nodev. It is so before it is there: a mount takes its flags
    with it into the node's own namespace and into those of pods, but not what is done to it afterwards. All of it or nothing.

    Raises:
        Misconfigured, Unavailable: what the kernel said.
    """
    target.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        _attach(source, target)
    except NotImplementedError:
        with tempfile.TemporaryDirectory(prefix="prestage-bind-") as folder:
            beside = Path(folder, "tree")
            beside.mkdir()
            _mount(source, beside, _BIND)
            try:
                seal(beside)
                _mount(None, beside, _PRIVATE)
                _mount(beside, target, _BIND)
            finally:
                _LIBC.umount2(os.fsencode(beside), _NOFOLLOW)


def _attach(source: Path, target: Path) -> None:
    """By a mount that is nowhere until it is read-only.

    Raises:
        NotImplementedError: a kernel older than 5.12.
    """
    fd = _call(_OPEN_TREE, source, _AT_FDCWD, os.fsencode(source), _CLONE | os.O_CLOEXEC)
    try:
        flags = struct.pack("=QQQQ", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0, _PRIVATE, 0)
        _call(_MOUNT_SETATTR, source, fd, b"", _EMPTY_PATH, flags, ctypes.c_size_t(len(flags)))
        _call(_MOVE_MOUNT, target, fd, b"", _AT_FDCWD, os.fsencode(target), _FROM_EMPTY_PATH)
    finally:
        os.close(fd)


def _call(number: int, path: Path, *arguments: int | bytes | ctypes.c_size_t) -> int:
    """One of the calls that libc has no function for everywhere."""
    given = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    found: int = _LIBC.syscall(ctypes.c_long(number), *given)
    if found < 0:
        code = ctypes.get_errno()
        if code == errno.ENOSYS:
            raise NotImplementedError
        raise _refused(path, code)
    return found


def seal(target: Path) -> None:
    """Read-only, as it should have been: whoever bound it may have been killed in between."""
    _mount(None, target, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV)


def release(target: Path) -> None:
    """Unmount whatever is there, what lies above first, and remove the folder. Idempotent.

    Raises:
        Busy: somebody is in there.
    """
    ours = (str(target), str(target / SIDE))
    for _ in range(_STACK_MAX):
        top = next((point for point in reversed(mount_table()) if point.target in ours), None)
        if top is None:
            break
        if _LIBC.umount2(os.fsencode(top.target), _NOFOLLOW):
            number = ctypes.get_errno()
            if number == errno.EBUSY:
                raise Busy(f"{target} is in use", hint="the kubelet asks again")
            raise Unavailable(f"cannot unmount {target}: {os.strerror(number)}", hint="the kubelet asks again")
    try:
        target.rmdir()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise Unavailable(f"cannot remove {target}: {exc.strerror}", hint="what is in there is none of ours") from exc


def _mount(source: Path | None, target: Path, flags: int) -> None:
    if _LIBC.mount(None if source is None else os.fsencode(source), os.fsencode(target), None, flags, None):
        raise _refused(target, ctypes.get_errno())


def _refused(target: Path, code: int) -> Misconfigured | Unavailable:
    why = f"cannot mount at {target}: {os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        return Misconfigured(why, hint="the csi container must be privileged")
    return Unavailable(why, hint="the kubelet asks again")
