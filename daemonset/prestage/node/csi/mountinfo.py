"""The mount table, read: os.path.ismount misses a bind mount within one file system. Pure but for the one reading.

36 35 98:0 /cache/trees/<64 hex digits>         /pods/…/mount           ro,nosuid,nodev … - ext4 /dev/sda1 rw
37 36 98:0 /cache/mounts/mount-0123456789abcdef /pods/…/mount/.prestage ro,nosuid,nodev … - ext4 /dev/sda1 rw
           root: what of its file system is shown   where                   how
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")
_HOLD = re.compile(r"/mounts/(mount-[0-9a-f]{16})(//deleted)?$")
_SHARED = re.compile(r"/trees/[0-9a-f]{64}(//deleted)?$")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line."""

    root: str
    target: str
    options: frozenset[str]

    @property
    def hold(self) -> str | None:
        """Whose it is; None: nobody's alone."""
        found = _HOLD.search(self.root)
        return found[1] if found else None

    @property
    def is_ours(self) -> bool:
        """It shows what is in a store: a pod's own, or what pods share."""
        return self.hold is not None or _SHARED.search(self.root) is not None

    @property
    def is_gone(self) -> bool:
        """What it shows was removed."""
        return self.root.endswith("//deleted")


def parse(text: str) -> Iterator[MountPoint]:
    """In the order of the table: of several at one target, the last is on top."""
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 6:
            yield MountPoint(_unescaped(fields[3]), _unescaped(fields[4]), frozenset(fields[5].split(",")))


def _unescaped(field: str) -> str:
    raw = _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)
    return raw.encode("latin-1", "surrogateescape").decode("utf-8", "surrogateescape") if raw != field else field


def mount_table() -> list[MountPoint]:
    """Now, in our mount namespace."""
    return list(parse(Path("/proc/self/mountinfo").read_text(errors="surrogateescape")))
