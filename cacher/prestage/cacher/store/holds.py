"""Holds: who uses what. Files, durable, readable by anybody who is called at night.

A pin lasts until it is taken off, a ttl until its time is over, a run while its process lives, a mount until whoever mounts says
that it is gone: over a reboot too, for the kubelet mounts again what it had. A ttl counts by CLOCK_BOOTTIME
within a boot, so that setting the clock, in either direction, evicts nothing early; by the wall clock after a reboot.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NewType, get_args

from prestage.cacher.digests import ArtifactId
from prestage.cacher.store.disk import Disk, make_directories, write_file
from prestage.cacher.store.layout import Layout

HoldId = NewType("HoldId", str)
Kind = Literal["pin", "ttl", "run", "mount"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMAT = 1
BOOT = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """This boot of the kernel."""
    return BOOT.read_text().strip()


def started_ticks(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None if there is none of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


@dataclass(frozen=True, slots=True)
class Clocks:
    """The wall and the boot clock."""

    wall: Callable[[], float] = time.time
    boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Mount:
    """Whom a mount is for."""

    pod: str
    """Its UID."""
    target: str
    """Where its tree is bound on the node."""
    mount_path: str = ""
    """Where the pod sees it; empty: not known."""


class Holds:
    """The holds of one store. Making one must be ordered against evicting by the gate: see `Store.hold`."""

    def __init__(self, layout: Layout, disk: Disk, clocks: Clocks) -> None:
        self._layout, self._disk, self._clocks = layout, disk, clocks

    @staticmethod
    def fresh(kind: Kind) -> HoldId:
        """A name that no hold has."""
        return HoldId(f"{kind}-{secrets.token_hex(8)}")

    def add(
        self,
        artifact: ArtifactId,
        kind: Kind,
        *,
        expires_at: float | None = None,
        pid: int | None = None,
        note: str = "",
        tree: HoldId | None = None,
        mount: Mount | None = None,
    ) -> HoldId:
        """Durable on return. `tree`: the hold is one of that tree's, and has its name."""
        hold = tree or self.fresh(kind)
        wall = self._clocks.wall()
        document: dict[str, object] = {
            "format": FORMAT,
            "kind": kind,
            "artifact": artifact,
            "created_at": wall,
            "note": note[:200],
        }
        document["boot"] = boot_id()
        if expires_at is not None:
            document["expires_at"] = expires_at
            document["expires_boottime"] = self._clocks.boot() + expires_at - wall
        if pid is not None:
            document |= {"pid": pid, "started": started_ticks(pid)}
        if mount is not None:
            document |= {"pod": mount.pod, "target": mount.target, "since_boottime": self._clocks.boot()}
        if tree is not None:
            document["tree"] = True
        folder = self._layout.hold(artifact)
        make_directories(self._disk, folder, above=self._layout.holds)
        write_file(self._disk, folder / f"{hold}.json", json.dumps(document).encode(), private=True)
        return hold

    def drop(self, artifact: ArtifactId, hold: HoldId) -> None:
        """Idempotent."""
        folder = self._layout.hold(artifact)
        self._disk.unlink(folder / f"{hold}.json")
        if folder.is_dir():
            self._disk.sync_directory(folder)

    def all(self, artifact: ArtifactId) -> dict[HoldId, Mapping[str, object]]:
        """Every hold on file, over or not. One that cannot be read counts as a pin: better kept than lost."""
        found: dict[HoldId, Mapping[str, object]] = {}
        for path in sorted(self._layout.hold(artifact).glob("*.json")):
            if path.name.startswith("."):
                continue
            try:
                document = json.loads(path.read_bytes())
                if not isinstance(document, dict) or document.get("kind") not in KINDS:
                    document = {"kind": "pin", "note": "unreadable hold file"}
            except FileNotFoundError:
                continue
            except (ValueError, RecursionError):
                document = {"kind": "pin", "note": "unreadable hold file"}
            found[HoldId(path.stem)] = document
        return found

    def live(self, artifact: ArtifactId) -> dict[HoldId, Mapping[str, object]]:
        """Those that keep the artifact here."""
        return {hold: document for hold, document in self.all(artifact).items() if self._lives(document)}

    def lives(self, artifact: ArtifactId, hold: HoldId) -> bool:
        """That one hold keeps the artifact here."""
        found = self.all(artifact).get(hold)
        return found is not None and self._lives(found)

    def of(self, hold: HoldId) -> list[ArtifactId]:
        """What has a hold of this name, over or not, readable or not."""
        folders = sorted(self._layout.holds.iterdir())
        return [ArtifactId(f"sha256:{folder.name}") for folder in folders if (folder / f"{hold}.json").exists()]

    def of_trees(self) -> dict[HoldId, list[ArtifactId]]:
        """The holds that belong to trees, over or not, and what each holds."""
        found: dict[HoldId, list[ArtifactId]] = {}
        for folder in sorted(self._layout.holds.iterdir()):
            artifact = ArtifactId(f"sha256:{folder.name}")
            for hold, document in self.all(artifact).items():
                if document.get("tree") is True:
                    found.setdefault(hold, []).append(artifact)
        return found

    def held_s(self, document: Mapping[str, object]) -> float:
        """How long it has been held; of an earlier boot, by the wall clock."""
        since, made = document.get("since_boottime"), document.get("created_at")
        if document.get("boot") == boot_id() and isinstance(since, (int, float)):
            return max(0.0, self._clocks.boot() - since)
        return max(0.0, self._clocks.wall() - made) if isinstance(made, (int, float)) else 0.0

    def _lives(self, hold: Mapping[str, object]) -> bool:
        if hold["kind"] == "run":
            pid = hold.get("pid")
            started = started_ticks(pid) if isinstance(pid, int) else None
            return hold.get("boot") == boot_id() and started is not None and started == hold.get("started")
        if hold["kind"] == "ttl":
            boottime, wall = hold.get("expires_boottime"), hold.get("expires_at")
            if hold.get("boot") == boot_id() and isinstance(boottime, (int, float)):
                return self._clocks.boot() < boottime
            return not isinstance(wall, (int, float)) or self._clocks.wall() < wall
        return True

    def drop_dead(self) -> None:
        """Remove the files of holds that are over."""
        for folder in sorted(self._layout.holds.iterdir()):
            if not folder.is_dir():
                continue
            artifact = ArtifactId(f"sha256:{folder.name}")
            live = self.live(artifact)
            for hold in self.all(artifact):
                if hold not in live:
                    self.drop(artifact, hold)
            if not any(folder.iterdir()):
                self._disk.remove_directory(folder)


def described(holds: Mapping[HoldId, Mapping[str, object]]) -> str:
    """`pin (prestage pin), run (pid 12: python)`: for a message."""
    words = []
    for hold in holds.values():
        who = f"pid {hold['pid']}: " if "pid" in hold else ""
        who += f"pod {hold['pod']}: " if "pod" in hold else ""
        words.append(f"{hold['kind']} ({who}{hold.get('note') or 'no note'})")
    return ", ".join(words)
