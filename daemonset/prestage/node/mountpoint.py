"""`prestage node mountpoint`: before an agent starts, whether a disk is mounted where the store should be.

Inside a container the folder is a mount in any case. What tells is mountinfo's fourth field, the folder's path inside its own
file system: /prestage where a disk is mounted at /mnt/nvme, /mnt/nvme/prestage where that is a folder of the root disk.
"""

from __future__ import annotations

from pathlib import Path

import click

from prestage.cacher.errors import Misconfigured

_MOUNTINFO = Path("/proc/self/mountinfo")


def is_on_a_disk_of_its_own(root: Path, mountinfo: str) -> bool:
    """Whether `root`, a mount of this container, comes from a file system that is mounted at it or between it and /.

    Raises:
        Misconfigured: nothing is mounted at `root`.
    """
    wanted = str(root).replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011").replace("\n", r"\012")
    inside = [words[3] for words in map(str.split, mountinfo.splitlines()) if len(words) > 4 and words[4] == wanted]
    if not inside:
        raise Misconfigured(
            f"nothing is mounted at {root} in this container", hint="mount the node's folder there, at the same path"
        )
    return not inside[-1].endswith(wanted)  # the last one covers the others


@click.command()
@click.option("--root", type=click.Path(path_type=Path), required=True, help="The store, at the same path as on the node.")
def mountpoint(root: Path) -> None:
    """Fail unless a disk is mounted at ROOT or above it: an unmounted disk must not fill the root disk."""
    if not is_on_a_disk_of_its_own(root, _MOUNTINFO.read_text()):
        raise Misconfigured(
            f"{root} is a folder of this node's root disk: no disk is mounted there",
            hint="mount the disk, or say requireMountpoint: false for this pool",
        )
    click.echo(f"{root}: a disk of its own")
