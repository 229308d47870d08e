"""Facts in, findings out: every threshold stands here, with its reason. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from prestage.cacher.doctor.facts import (
    ClockFacts,
    DiskFacts,
    Facts,
    FileFacts,
    Link,
    OriginFacts,
    PlaceFacts,
    ProcessFacts,
    ProxyFacts,
    StoreFacts,
)
from prestage.cacher.doctor.findings import Finding, error, note, ok, warning
from prestage.cacher.doctor.room import room_findings
from prestage.cacher.quantities import human_bytes, human_seconds

TESTED = ("ext4", "xfs")
IN_MEMORY = ("tmpfs", "ramfs")
REMOTE = ("nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "9p", "virtiofs")
READ_AHEAD_BYTES = 4 << 20
"""At the kernel's usual 128 KiB a mapped file is read at half the speed of the disk."""
SLOW_FSYNC_S = 0.1
"""The journal is synced once a second: a tenth of that is felt."""
SLOW_DISK_BYTES_PER_S = 200e6
SKEW_WARNING_S, SKEW_ERROR_S = 60.0, 900.0
"""S3 refuses signatures that are 15 minutes off."""
NOFILE_MIN = 1024
MEMORY_MIN_BYTES = 512 << 20
"""64 MiB of buffers, Python, and the page cache of what is being read back."""
FAST_LINK_BITS_PER_S = 10e9
_UNSAFE_OPTIONS = ("nobarrier", "barrier=0", "data=writeback")


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which a reader wants them."""
    return [
        *_place(facts.place),
        *_store(facts.store, facts.place),
        *_files(facts.files, facts.place),
        *_disk(facts.disk, facts.place),
        *(room_findings(facts.room) if facts.room is not None else ()),
        *_links(facts.links),
        *_proxy(facts.proxy),
        *_clock(facts.clock),
        *_process(facts.process),
        *(_origin(facts.origin) if facts.origin is not None else ()),
    ]


def _place(place: PlaceFacts) -> Iterator[Finding]:
    where = f"{place.filesystem} from {place.source or 'nowhere'} at {place.mount_point}"
    if not place.is_directory:
        yield error("root", f"{place.root} is no directory", "give a directory as --root")
        return
    if not place.exists:
        yield note("root", f"{place.root} does not exist yet; looked at {place.examined}", "the first stage makes it")
    if place.is_read_only:
        yield error(
            "filesystem", f"{where} is mounted read-only", "mount it read-write (mount -o remount,rw), or give another --root"
        )
    elif place.filesystem in IN_MEMORY:
        yield warning("filesystem", f"{where} keeps its files in memory: gone at reboot, counted as memory", "use a disk")
    elif place.filesystem == "overlay":
        do = "mount a volume of the node there (hostPath, local volume)"
        yield warning("filesystem", f"{where} is a container's own layer: gone with the container, and slow", do)
    elif place.filesystem in REMOTE or place.filesystem.startswith("fuse"):
        yield warning("filesystem", f"{where} is not a disk of this machine", "use a local SSD: that is what the store is for")
    elif place.filesystem in TESTED:
        yield ok("filesystem", where)
    else:
        yield note("filesystem", f"{where}: not one of those it is tested on ({', '.join(TESTED)})", "prefer one of them")
    if unsafe := [option for option in place.options if option in _UNSAFE_OPTIONS]:
        yield warning(
            "options",
            f"{place.mount_point} is mounted with {', '.join(unsafe)}: a power cut may lose what was synced",
            "leave it out",
        )
    if place.mount_point == "/":
        yield note("mount", "the store shares the root file system", "give it a file system of its own, or a --budget")
    else:
        yield ok("mount", f"a file system of its own at {place.mount_point}")
    yield from _permissions(place)


def _permissions(place: PlaceFacts) -> Iterator[Finding]:
    if place.exists and place.owner_uid not in (None, place.uid) and place.uid != 0:
        yield error("permissions", f"{place.root} belongs to uid {place.owner_uid}, this is uid {place.uid}", "run as its owner")
    elif not place.is_writable and not place.is_read_only:
        yield error("permissions", f"uid {place.uid} may not write in {place.examined}", "change its owner or its mode")
    elif place.exists and place.mode is not None and place.mode & 0o077:
        yield note("permissions", f"{place.root} has mode {place.mode:04o}", "the store makes it 0700 when it opens it")
    else:
        yield ok("permissions", f"uid {place.uid} may write")


def _store(store: StoreFacts, place: PlaceFacts) -> Iterator[Finding]:
    if store.error is not None:
        yield error("store", store.error, store.hint or "see docs/operations.md", store.error_kind or "misconfigured")
    elif not store.is_store:
        yield note("store", f"there is no store at {place.root} yet")
    elif store.owner_pid is None:
        yield ok("store", "a store that nobody owns just now")
    else:
        since = f" since {human_seconds(store.owner_since_s)} ago" if store.owner_since_s is not None else ""
        yield ok("store", f"a store, owned by process {store.owner_pid} ({store.owner_purpose or 'prestage'}){since}")


def _files(files: FileFacts, place: PlaceFacts) -> Iterator[Finding]:
    if files.error is not None:
        if not place.is_read_only and place.is_writable:
            yield error(
                "files",
                f"no file can be made in {place.examined}: {files.error}",
                "check the mount and the kernel log",
                "unavailable",
            )
        return
    if files.hardlinks is False:
        yield error("hardlinks", f"{place.filesystem} refuses hard links, and views are made of them", "use ext4 or xfs")
    elif files.hardlinks:
        yield ok("hardlinks", "work")
    if files.reflinks is not None:
        text = "work: adopting a directory costs no room" if files.reflinks else "none: adopting a directory copies it"
        yield ok("reflinks", text) if files.reflinks else note("reflinks", text)
    if files.direct_alignment == 0:
        do = "correct, at several times the CPU: prefer ext4 or xfs on a local disk"
        yield warning("direct", f"{place.filesystem} refuses O_DIRECT: writes go through the page cache", do)
    elif files.direct_alignment is not None and files.direct_alignment > 4096:
        do = "writes go through the page cache; prefer a device with blocks of 4096 bytes or less"
        yield warning("direct", f"O_DIRECT takes blocks of {files.direct_alignment} bytes only", do)
    elif files.direct_alignment is not None:
        yield ok("direct", f"O_DIRECT works, blocks of {files.direct_alignment} bytes")
    if files.preallocates is False:
        yield warning(
            "fallocate", f"{place.filesystem} cannot preallocate", "a fetch may run out of room half way; use ext4 or xfs"
        )
    elif files.preallocates:
        yield ok("fallocate", "works")
    if files.fsync_s is not None:
        text = f"{human_seconds(files.fsync_s)} in the middle, {human_seconds(files.fsync_worst_s or files.fsync_s)} at worst"
        slow = files.fsync_s > SLOW_FSYNC_S
        yield warning("fsync", text, "the disk is slow or busy: look at iostat -x") if slow else ok("fsync", text)


def _disk(disk: DiskFacts, place: PlaceFacts) -> Iterator[Finding]:
    if disk.read_ahead_bytes is not None:
        text = f"{human_bytes(disk.read_ahead_bytes)} ahead"
        if disk.read_ahead_bytes < READ_AHEAD_BYTES and place.filesystem not in IN_MEMORY:
            do = f"readers that map files gain: blockdev --setra {READ_AHEAD_BYTES // 512} {place.source or 'DEVICE'}"
            yield note("read-ahead", text, do)
        else:
            yield ok("read-ahead", text)
    if not disk.measured_bytes:
        yield note("disk", f"its rate was not measured: {disk.why or 'left out'}")
        return
    write, read = disk.write_bytes_per_s or 0.0, disk.read_bytes_per_s or 0.0
    text = f"writes {human_bytes(write)}/s, reads {human_bytes(read)}/s ({human_bytes(disk.measured_bytes)}, one thread)"
    if min(write, read) < SLOW_DISK_BYTES_PER_S:
        yield warning(
            "disk",
            text,
            f"100 GB take {human_seconds(100e9 / max(min(write, read), 1))}: use a faster disk, or one with less to do",
        )
    else:
        yield ok("disk", text)


def _links(links: tuple[Link, ...]) -> Iterator[Finding]:
    if not any(link.is_default for link in links):
        yield note("network", "no default route", "fine where the origin is on this network; else check the route")
    for link in links:
        speed = f"{link.bits_per_s / 1e9:g} Gbit/s" if link.bits_per_s else "speed unknown"
        text = f"{link.name}: {speed}, MTU {link.mtu or 'unknown'}{', default route' if link.is_default else ''}"
        if link.bits_per_s and link.bits_per_s < FAST_LINK_BITS_PER_S and link.is_default:
            yield note(
                "network",
                text,
                f"100 GB take {human_seconds(100e9 * 8 / link.bits_per_s)} at best: stage early, share between nodes",
            )
        else:
            yield ok("network", text)


def _proxy(proxy: ProxyFacts) -> Iterator[Finding]:
    if proxy.error is not None:
        yield error("proxy", proxy.error, proxy.hint or "check HTTPS_PROXY and PRESTAGE_CA_BUNDLE")
        return
    if not proxy.proxies:
        yield ok("proxy", "none")
    elif not proxy.bypasses_metadata:
        do = "add 169.254.169.254 to NO_PROXY"
        yield warning("proxy", f"{_listed(proxy)}: the instance's metadata would be asked through it", do)
    else:
        yield ok("proxy", _listed(proxy))
    bundle = proxy.ca_bundle or "the system's"
    if proxy.certificates == 0:
        yield error("ca", f"{bundle}: not one certificate to trust", "install ca-certificates, or set PRESTAGE_CA_BUNDLE")
    else:
        yield ok("ca", f"{bundle}" + (f", {proxy.certificates} certificates" if proxy.certificates else ""))


def _listed(proxy: ProxyFacts) -> str:
    return ", ".join(f"{scheme}: {host}" for scheme, host in sorted(proxy.proxies.items()))


def _clock(clock: ClockFacts) -> Iterator[Finding]:
    if clock.skew_s is not None and abs(clock.skew_s) > SKEW_WARNING_S:
        text = f"{human_seconds(abs(clock.skew_s))} {'ahead of' if clock.skew_s > 0 else 'behind'} the origin's"
        do = "set it (chrony, systemd-timesyncd): signatures are refused when it is 15 minutes off"
        yield error("clock", text, do, "denied") if abs(clock.skew_s) > SKEW_ERROR_S else warning("clock", text, do)
        return
    agreed = f"within {human_seconds(max(1.0, abs(clock.skew_s)))} of the origin's" if clock.skew_s is not None else ""
    if clock.is_synchronised:
        within = f", at most {human_seconds(clock.error_s)} off" if clock.error_s is not None else ""
        yield ok("clock", "synchronised" + within + (f"; {agreed}" if agreed else ""))
    elif clock.is_synchronised is None:
        yield ok("clock", agreed) if agreed else note("clock", "the kernel does not say whether it is synchronised")
    elif agreed:
        yield note("clock", f"not synchronised by NTP, but {agreed}", "run chrony or systemd-timesyncd")
    else:
        yield warning(
            "clock", "not synchronised by NTP", "run chrony or systemd-timesyncd: signatures and certificates need the time"
        )


def _process(process: ProcessFacts) -> Iterator[Finding]:
    if process.nofile is not None:
        few = process.nofile < NOFILE_MIN
        text = f"{process.nofile} open files"
        yield warning("nofile", text, f"raise it to {NOFILE_MIN} or more (ulimit -n, LimitNOFILE)") if few else ok("nofile", text)
    if process.memlock_bytes is not None:
        yield ok("memlock", f"{human_bytes(process.memlock_bytes)} (pinned memory of a loader; not needed here)")
    if process.memory_max_bytes is not None and process.memory_max_bytes < MEMORY_MIN_BYTES:
        do = f"give {human_bytes(MEMORY_MIN_BYTES)} or more, or use fewer --connections"
        yield warning("memory", f"the control group has {human_bytes(process.memory_max_bytes)}", do)
    else:
        limit = human_bytes(process.memory_max_bytes) if process.memory_max_bytes is not None else "no limit"
        yield ok("memory", f"control group: {limit}")
    if process.cores is not None:
        text = f"{process.cores:g} cores"
        yield note("cpu", text, "a fast link needs one or more; TLS two") if process.cores < 1 else ok("cpu", text)


def _origin(origin: OriginFacts) -> Iterator[Finding]:
    if origin.error is not None:
        yield error("origin", origin.error, origin.hint or "check the ref", origin.error_kind or "unavailable")
        return
    files = f"{origin.files} file{'s' if origin.files != 1 else ''}"
    text = f"{origin.ref}: {files}, {human_bytes(origin.size_bytes)}, resolved in {human_seconds(origin.seconds)}"
    if origin.is_weak:
        yield note("origin", f"{text}; weak identity", "the origin tells versions apart by nothing but the size")
    else:
        yield ok("origin", text)
