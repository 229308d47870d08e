"""Binding a tree to a target, read-only, and letting go of it: mount(2) itself, for an image without tools. Blocks."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from prestage.cacher.errors import Busy, Misconfigured, Unavailable
from prestage.node.csi.mountinfo import MountPoint, mount_table

_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND = 1, 2, 4, 32, 4096  # linux/mount.h
_NOFOLLOW = 8  # UMOUNT_NOFOLLOW
_LIBC = ctypes.CDLL(None, use_errno=True)
_STACK_MAX = 32


def at(target: str) -> MountPoint | None:
    """What is mounted there, on top."""
    return next((one for one in reversed(mount_table()) if one.target == target), None)


def bind(source: Path, target: Path) -> None:
    """Make `target`, a new folder, show `source`: read-only, nosuid, nodev. All of it or nothing.

    Raises:
        Misconfigured, Unavailable: what the kernel said.
    """
    target.mkdir(mode=0o750, parents=True, exist_ok=True)
    _mount(source, target, _BIND)
    try:
        seal(target)
    except BaseException:
        _LIBC.umount2(os.fsencode(target), _NOFOLLOW)
        raise


def seal(target: Path) -> None:
    """Read-only, as it should have been: whoever bound it may have been killed in between."""
    _mount(None, target, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV)


def release(target: Path) -> None:
    """Unmount whatever is there, and remove the folder. Idempotent.

    Raises:
        Busy: somebody is in there.
    """
    for _ in range(_STACK_MAX):
        if at(str(target)) is None:
            break
        if _LIBC.umount2(os.fsencode(target), _NOFOLLOW):
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
        number = ctypes.get_errno()
        why = f"cannot mount at {target}: {os.strerror(number)}"
        if number in (errno.EPERM, errno.EACCES):
            raise Misconfigured(why, hint="the csi container must be privileged")
        raise Unavailable(why, hint="the kubelet asks again")
