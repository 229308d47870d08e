"""The file `format`: is this a store, of which layout, on which file system. Refused untouched when any of it is wrong.

The identity of the file system is there for unmounted disks: without it an agent would fill the root disk under an empty
mount point.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from prestage.cacher.errors import Misconfigured, NotFound
from prestage.cacher.store.disk import Disk, write_file
from prestage.cacher.store.layout import FOLDERS, LOCKS, Layout

LAYOUT_VERSION = 1


def filesystem_identity(path: Path) -> dict[str, str]:
    """Type and id of the file system below `path`: its f_fsid, which for ext4, xfs and btrfs derives from the UUID."""
    device = path.stat().st_dev
    kind = next((kind for number, _, kind in mounts() if number == device), "unknown")
    return {"type": kind, "id": f"{os.statvfs(path).f_fsid:016x}"}


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
    document = {"layout": LAYOUT_VERSION, "store": str(uuid.uuid4()), "filesystem": filesystem_identity(root)}
    write_file(disk, layout.format, json.dumps(document).encode(), private=True)


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
        version, filesystem = document["layout"], document["filesystem"]
    except FileNotFoundError as exc:
        raise NotFound(f"there is no store at {root}", hint="stage something first, or check --root") from exc
    except OSError as exc:
        raise Misconfigured(f"cannot read {layout.format}: {exc.strerror}", hint="run as the store's owner") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise Misconfigured(f"{layout.format} is damaged", hint="restore it, or start over in an empty directory") from exc
    if version != LAYOUT_VERSION:
        raise Misconfigured(f"{root} has layout {version!r}, this prestage knows {LAYOUT_VERSION}", hint="upgrade prestage")
    if filesystem != (here := filesystem_identity(root)):
        raise Misconfigured(
            f"{root} was made on another file system ({filesystem} then, {here} now)",
            hint="is its disk mounted? if it was cloned, start over",
        )
    resolved = root.resolve()
    for _, point, kind in mounts():
        if resolved in point.parents:
            raise Misconfigured(f"a {kind} file system is mounted inside the store at {point}", hint="unmount it")
