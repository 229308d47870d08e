"""Probes of a directory without writing to it: its mount, its mode, its room, the store in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prestage.cacher.doctor.facts import PlaceFacts, RoomFacts, StoreFacts
from prestage.cacher.doctor.room import eviction_hard
from prestage.cacher.errors import NotFound, PrestageError
from prestage.cacher.store import format as store_format
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.room import margin_of

KUBELET_CONFIGS = (
    Path("/var/lib/kubelet/config.yaml"),
    Path("/etc/kubernetes/kubelet/config.json"),
    Path("/etc/kubernetes/kubelet/kubelet-config.json"),
    Path("/home/kubernetes/kubelet-config.yaml"),
)
"""kubeadm, EKS (AL2023 and AL2), GKE."""
_NODEFS = (Path("/var/lib/kubelet"),)
_IMAGEFS = (Path("/var/lib/containerd"), Path("/var/lib/containers/storage"), Path("/var/lib/docker"))


def nearest(root: Path) -> Path:
    """`root`, or the nearest directory above it that is there."""
    for path in (root, *root.parents):
        if path.is_dir():
            return path
    return Path("/")


def probe_place(root: Path) -> PlaceFacts:
    """The directory and the mount it lies on."""
    examined = nearest(root)
    point, kind, source, options = _mount(examined)
    status = examined.stat()
    exists = examined == root
    return PlaceFacts(
        root=str(root),
        examined=str(examined),
        exists=exists,
        is_directory=exists or not (root.exists() or root.is_symlink()),
        mount_point=str(point),
        filesystem=kind,
        source=source,
        options=options,
        mode=status.st_mode & 0o7777,
        owner_uid=status.st_uid,
        uid=os.geteuid(),
        is_writable=os.access(examined, os.W_OK | os.X_OK, effective_ids=True),
    )


def _mount(path: Path) -> tuple[Path, str, str, tuple[str, ...]]:
    """Point, type, source and options of the mount that `path` lies on: the last one of the longest point wins."""
    resolved = path.resolve()
    best: tuple[Path, str, str, tuple[str, ...]] = (Path("/"), "unknown", "", ())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, source, *more) = before.split(), after.split()
        point = store_format.unescaped(fields[4])
        if (resolved == point or point in resolved.parents) and len(point.parts) >= len(best[0].parts):
            options = dict.fromkeys([*fields[5].split(","), *(",".join(more)).split(",")])
            best = (point, kind, source, tuple(options))
    return best


def probe_room(folder: Path, configs: Sequence[Path] = KUBELET_CONFIGS) -> RoomFacts:
    """Room on the file system, and what the kubelet of this machine makes of it."""
    room = os.statvfs(folder)
    total = room.f_blocks * room.f_frsize
    device = folder.stat().st_dev
    places = {"nodefs": _NODEFS, "imagefs": _IMAGEFS}
    shares = tuple(name for name, paths in places.items() if any(_device(path) == device for path in paths))
    thresholds, source = _thresholds(configs)
    return RoomFacts(
        total_bytes=total,
        free_bytes=room.f_bavail * room.f_frsize,
        inodes=room.f_files,
        free_inodes=room.f_favail,
        margin_bytes=margin_of(folder),
        shares=shares,
        thresholds=thresholds,
        thresholds_from=source,
    )


def _device(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_dev
    return None


def _thresholds(configs: Sequence[Path]) -> tuple[dict[str, str], str | None]:
    for path in configs:
        with suppress(OSError, UnicodeDecodeError):
            if (said := eviction_hard(path.read_text())) is not None:
                return said, str(path)
    return {}, None


def probe_store(root: Path) -> StoreFacts:
    """Is there a store that this version may use, and who owns it. Takes no lock, so it disturbs nobody."""
    layout = Layout(root)
    try:
        store_format.check(layout)
    except NotFound:
        return _no_store(root)
    except PrestageError as exc:
        return StoreFacts(error_kind=exc.kind, error=exc.message, hint=exc.hint)
    except OSError as exc:
        return StoreFacts(error_kind="misconfigured", error=f"{root} cannot be read: {exc.strerror}", hint="run as its owner")
    try:
        said = json.loads(layout.owner.read_bytes())
        pid, since = int(said["pid"]), float(said["since"])
        os.kill(pid, 0)
        return StoreFacts(True, owner_pid=pid, owner_purpose=str(said["purpose"]), owner_since_s=max(0.0, time.time() - since))
    except PermissionError:
        return StoreFacts(True, owner_pid=pid, owner_purpose=str(said["purpose"]))
    except (OSError, ValueError, KeyError, TypeError):
        return StoreFacts(is_store=True)


def _no_store(root: Path) -> StoreFacts:
    """No file `format`: fine where there is nothing else either."""
    try:
        foreign = sorted(path.name for path in root.iterdir() if path.name != "lost+found") if root.is_dir() else []
    except OSError as exc:
        return StoreFacts(error_kind="misconfigured", error=f"{root} cannot be read: {exc.strerror}", hint="run as its owner")
    if not foreign:
        return StoreFacts()
    hint = "give an empty directory as --root"
    return StoreFacts(error_kind="misconfigured", error=f"{root} is not empty and no store (it holds {foreign[0]!r})", hint=hint)
