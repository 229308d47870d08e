"""The file `format`: is this a store, of which layout, on which file system. Refused untouched when any of it is wrong.

The identity of the file system is there for unmounted disks: without it an agent would fill the root disk under an empty
mount point. It is type and f_fsid, which derives from the UUID for ext4 and btrfs; but for xfs from the device's number, which
may be another after a boot. There the UUID counts, once both are known.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from prestage.cacher.errors import Misconfigured, NotFound, PrestageError
from prestage.cacher.store.disk import Disk, write_file
from prestage.cacher.store.layout import FOLDERS, LOCKS, Layout

LAYOUT_VERSION = 1
_XFS_IOC_FSGEOMETRY_V1 = 0x80705864
_GEOMETRY_BYTES, _UUID_AT = 112, 64
"""struct xfs_fsop_geom_v1 in xfs_fs.h; anybody may ask."""


def filesystem_identity(path: Path) -> dict[str, object]:
    """Of the file system below `path`, as the format file has it: `filesystem`, and `filesystem_uuid` of an xfs."""
    device = path.stat().st_dev
    kind = next((kind for number, _, kind in mounts() if number == device), "unknown")
    identity: dict[str, object] = {"filesystem": {"type": kind, "id": f"{os.statvfs(path).f_fsid:016x}"}}
    if kind == "xfs" and (found := _xfs_uuid(path)) is not None:
        identity["filesystem_uuid"] = found
    return identity


def _xfs_uuid(path: Path) -> str | None:
    geometry = bytearray(_GEOMETRY_BYTES)
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _XFS_IOC_FSGEOMETRY_V1, geometry)
        finally:
            os.close(fd)
        return str(uuid.UUID(bytes=bytes(geometry[_UUID_AT : _UUID_AT + 16])))
    return None


def _is_same(then: Mapping[str, object], now: Mapping[str, object]) -> bool:
    if (known := then.get("filesystem_uuid")) is not None and "filesystem_uuid" in now:
        return known == now["filesystem_uuid"]
    return then["filesystem"] == now["filesystem"]


def mounts() -> list[tuple[int, Path, str]]:
    """Device number, mount point and type of every mount that this process sees."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        major, minor = fields[2].split(":")
        point = unescaped(fields[4])
        found.append((os.makedev(int(major), int(minor)), point, fields[fields.index("-") + 1]))
    return found


def unescaped(field: str) -> Path:
    """A path as mountinfo writes it: blanks as octal escapes, the rest as it is."""
    return Path(os.fsdecode(field.encode().decode("unicode_escape").encode("latin-1")))


def prepare(layout: Layout) -> None:
    """Make the root if there is none; refuse one that holds something else, untouched.

    Raises:
        Misconfigured: not empty and no store, or not to be written.
    """
    root = layout.root
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {path.name for path in root.iterdir()}
    except OSError as exc:
        raise Misconfigured(f"cannot make the store {root}: {exc.strerror}", hint="check the path and its permissions") from exc
    if "format" in names:
        check(layout)
        return
    if foreign := sorted(names - {*FOLDERS, *LOCKS, ".format.new", "lost+found"}):
        raise Misconfigured(
            f"{root} is not empty and no store (it holds {foreign[0]!r})", hint="give an empty directory as --root"
        )


def create(layout: Layout, disk: Disk) -> None:
    """Make an empty store of a prepared root; the caller owns it. A store that is there already stays as it is."""
    root = layout.root
    if layout.format.exists():
        return
    disk.set_mode(root, 0o700)
    disk.sync_directory(root.parent)
    for folder in FOLDERS:
        disk.make_directory(root / folder)
    disk.sync_directory(root)
    document = {"layout": LAYOUT_VERSION, "store": str(uuid.uuid4()), **filesystem_identity(root)}
    write_file(disk, layout.format, json.dumps(document).encode(), private=True)


def renew(layout: Layout, disk: Disk) -> None:
    """Write down by what the file system of a checked store is known now. The caller owns it; a disk that refuses is asked again
    at the next start. Another user's file is left to him: it would be ours.
    """
    if layout.format.stat().st_uid != os.geteuid():
        return
    document, now = json.loads(layout.format.read_bytes()), filesystem_identity(layout.root)
    if document | now != document:
        with suppress(PrestageError):
            write_file(disk, layout.format, json.dumps(document | now).encode(), private=True)


def store_id(root: Path) -> str:
    """Names the store at `root` for as long as it exists."""
    return str(json.loads(Layout(root).format.read_bytes())["store"])


def check(layout: Layout) -> None:
    """Refuse what is no store, is newer, or lies on another file system.

    Raises:
        NotFound: no store there.
        Misconfigured: one that this version, or this mount, must not touch.
    """
    root = layout.root
    try:
        document = json.loads(layout.format.read_bytes())
        version, _ = document["layout"], document["filesystem"]
    except FileNotFoundError as exc:
        raise NotFound(f"there is no store at {root}", hint="stage something first, or check --root") from exc
    except OSError as exc:
        raise Misconfigured(f"cannot read {layout.format}: {exc.strerror}", hint="run as the store's owner") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise Misconfigured(f"{layout.format} is damaged", hint="restore it, or start over in an empty directory") from exc
    if version != LAYOUT_VERSION:
        raise Misconfigured(f"{root} has layout {version!r}, this prestage knows {LAYOUT_VERSION}", hint="upgrade prestage")
    if not _is_same(document, now := filesystem_identity(root)):
        then = {name: document[name] for name in ("filesystem", "filesystem_uuid") if name in document}
        raise Misconfigured(
            f"{root} was made on another file system ({then} then, {now} now)",
            hint="is its disk mounted? if it was cloned, start over",
        )
    resolved = root.resolve()
    for _, point, kind in mounts():
        if resolved in point.parents:
            raise Misconfigured(f"a {kind} file system is mounted inside the store at {point}", hint="unmount it")
