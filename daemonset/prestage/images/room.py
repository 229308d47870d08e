"""Whether an image fits on containerd's file system, below where the kubelet begins to make room. Pure.

The kubelet's garbage collector starts at 85 % (`imageGCHighThresholdPercent`) and cannot remove what a lease of ours holds: it
would delete other images, then evict pods. So what would lead there is refused before its first byte, and what gets there while
it is being unpacked is let go of.
"""

from __future__ import annotations

from dataclasses import dataclass

from prestage.cacher.quantities import human_bytes
from prestage.images.plan import Plan

HIGH_WATER = 0.80
"""Of the file system: the kubelet's low threshold, where it ends to make room."""
UNPACKED_TIMES = 2.5
"""How much larger a gzip layer is once it is unpacked, where its config does not say: engine images are 1.8 to 2.6."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system: all of it, and what is free of it."""

    total_bytes: int
    free_bytes: int

    @property
    def used(self) -> float:
        """0 to 1."""
        return 1 - self.free_bytes / self.total_bytes if self.total_bytes else 0.0


def needed_bytes(todo: Plan) -> int:
    """What the plan will add: blobs as they come, layers as they are guessed to unpack."""
    return todo.fetch_bytes + round(todo.unpack_bytes * UNPACKED_TIMES)


def why_not(todo: Plan, disk: Disk, high_water: float) -> str | None:
    """Why the plan is not begun; None: it fits."""
    needed = needed_bytes(todo)
    room = disk.free_bytes - round((1 - high_water) * disk.total_bytes)
    if needed <= max(room, 0):
        return None
    left = human_bytes(max(room, 0))
    return f"it takes about {human_bytes(needed)}, and {left} are left below {high_water:.0%} of containerd's disk"


def is_over(disk: Disk, high_water: float) -> bool:
    """Others or a wrong guess have filled the disk: half way from the mark to its end."""
    return disk.used > (1 + high_water) / 2
