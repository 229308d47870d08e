"""What the probes saw, as values. None: could not be found out. Bytes, seconds, bytes a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """The directory that is, or is to be, the store."""

    root: str
    examined: str
    """The root, or the nearest directory above it that there is."""
    exists: bool
    is_directory: bool = True
    mount_point: str = "/"
    filesystem: str = "unknown"
    source: str = ""
    options: tuple[str, ...] = ()
    mode: int | None = None
    owner_uid: int | None = None
    uid: int = 0
    is_writable: bool = True

    @property
    def is_read_only(self) -> bool:
        """Mounted so."""
        return "ro" in self.options


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the file system does, tried with files that have no name (the links had one for a moment)."""

    hardlinks: bool | None = None
    reflinks: bool | None = None
    direct_alignment: int | None = None
    """Smallest block that O_DIRECT took, 0 when it took none."""
    preallocates: bool | None = None
    fsync_s: float | None = None
    """Median of 4 KiB written and fdatasynced."""
    fsync_worst_s: float | None = None
    error: str | None = None
    """Why none of it could be tried."""


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """The device below, and what it moves."""

    read_ahead_bytes: int | None = None
    write_bytes_per_s: float | None = None
    read_bytes_per_s: float | None = None
    measured_bytes: int = 0
    """0: it was not measured; `why` says why."""
    why: str | None = None


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """Room, and from when on the kubelet evicts pods for lack of it."""

    total_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int
    margin_bytes: int
    """What a store without a budget leaves free."""
    shares: tuple[str, ...] = ()
    """Of `nodefs` and `imagefs`: those that lie on the store's file system."""
    thresholds: Mapping[str, str] = field(default_factory=dict)
    """The kubelet's evictionHard, as written: a percentage or a quantity."""
    thresholds_from: str | None = None
    """The file, None: the kubelet's defaults."""


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """The kernel's own opinion of its clock, and an origin's."""

    is_synchronised: bool | None = None
    error_s: float | None = None
    """The kernel's bound on how far off it may be."""
    skew_s: float | None = None
    """Ours less the origin's."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """Limits of this process and of its control group."""

    nofile: int | None = None
    memlock_bytes: int | None = None
    memory_max_bytes: int | None = None
    """None: no limit, or not found out."""
    cores: float | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface that is up."""

    name: str
    bits_per_s: float | None
    mtu: int | None
    is_default: bool
    """A default route leads over it."""


@dataclass(frozen=True, slots=True)
class ProxyFacts:
    """How HTTP goes out."""

    proxies: Mapping[str, str] = field(default_factory=dict)
    """Scheme -> host:port, without credentials."""
    bypasses_metadata: bool = True
    """The instance's metadata (169.254.169.254) is not asked through them."""
    ca_bundle: str | None = None
    certificates: int | None = None
    error: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The store in that directory, if there is one."""

    is_store: bool = False
    error_kind: str | None = None
    error: str | None = None
    hint: str | None = None
    owner_pid: int | None = None
    owner_purpose: str = ""
    owner_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class OriginFacts:
    """What resolving a ref came to."""

    ref: str
    files: int = 0
    size_bytes: int = 0
    is_weak: bool = False
    seconds: float = 0.0
    error_kind: str | None = None
    error: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it."""

    place: PlaceFacts
    files: FileFacts
    disk: DiskFacts
    room: RoomFacts | None
    clock: ClockFacts
    process: ProcessFacts
    links: tuple[Link, ...]
    proxy: ProxyFacts
    store: StoreFacts
    origin: OriginFacts | None = None
