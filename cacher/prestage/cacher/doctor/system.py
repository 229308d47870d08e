"""Probes of the machine: clock, limits, control group, links, proxies, and of an origin by resolving a ref."""

from __future__ import annotations

import ctypes
import email.utils
import os
import resource
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prestage.cacher.doctor.facts import ClockFacts, Link, OriginFacts, ProcessFacts, ProxyFacts
from prestage.cacher.errors import PrestageError
from prestage.cacher.net.client import HttpBody, HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.retry import RetryRules
from prestage.cacher.refs import parse_ref

_TIMEX_BYTES = 208
_STA_UNSYNC = 0x40
_TIME_ERROR = 5
"""sys/timex.h; `maxerror` at 24 and `status` at 40 on 64-bit machines."""
_METADATA = "169.254.169.254"
_NO_LIMIT = 1 << 60
"""What version 1 control groups say instead of nothing is above this."""


def probe_clock() -> ClockFacts:
    """adjtimex(2): what the kernel was told by whoever disciplines its clock."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0 or struct.calcsize("P") != 8:
        return ClockFacts()
    (max_error_us,), (status,) = struct.unpack_from("@q", buffer, 24), struct.unpack_from("@i", buffer, 40)
    synchronised = state != _TIME_ERROR and not status & _STA_UNSYNC
    return ClockFacts(synchronised, max_error_us / 1e6 if synchronised else None)


def probe_process(cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> ProcessFacts:
    """Limits of this process, and of the control groups it is in."""
    nofile, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    memlock, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    memory, cores = _control_group(cgroups, membership)
    usable = float(len(os.sched_getaffinity(0)))
    return ProcessFacts(
        nofile=None if nofile == resource.RLIM_INFINITY else nofile,
        memlock_bytes=None if memlock == resource.RLIM_INFINITY else memlock,
        memory_max_bytes=memory,
        cores=min(usable, cores) if cores is not None else usable,
    )


def _control_group(cgroups: Path, membership: Path) -> tuple[int | None, float | None]:
    """The tightest limit of memory and of cores on the way up; version 2, else 1."""
    memory, cores = list[int](), list[float]()
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(",") if controllers else [""]:
                folder = cgroups / controller / path.strip("/")
                for one in (folder, *folder.parents):
                    if cgroups not in (one, *one.parents):
                        break
                    memory += _numbers(one / "memory.max") + _numbers(one / "memory.limit_in_bytes")
                    cores += _quota(one)
    limited = [limit for limit in memory if limit < _NO_LIMIT]
    return min(limited, default=None), min(cores, default=None)


def _numbers(path: Path) -> list[int]:
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):  # absent, or `max`
        return []


def _quota(folder: Path) -> list[float]:
    pair = _numbers(folder / "cpu.max") or _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
    return [pair[0] / pair[1]] if len(pair) == 2 and pair[0] > 0 and pair[1] > 0 else []


def probe_links(net: Path = Path("/sys/class/net"), routes: Path = Path("/proc/net")) -> tuple[Link, ...]:
    """Interfaces that are up and lead somewhere: hardware, and whatever a default route goes over."""
    defaults = _default_interfaces(routes)
    found = list[Link]()
    with suppress(OSError):
        for folder in sorted(net.iterdir()):
            is_default = folder.name in defaults
            if folder.name == "lo" or not (is_default or (folder / "device").exists()):
                continue
            if _word(folder / "operstate") not in ("up", "unknown"):
                continue
            speed = _numbers(folder / "speed")
            mtu = _numbers(folder / "mtu")
            found.append(
                Link(folder.name, speed[0] * 1e6 if speed and speed[0] > 0 else None, mtu[0] if mtu else None, is_default)
            )
    return tuple(found)


def _default_interfaces(routes: Path) -> set[str]:
    found = set[str]()
    with suppress(OSError):
        rows = [line.split() for line in (routes / "route").read_text().splitlines()[1:]]
        found |= {row[0] for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"}
    with suppress(OSError):
        rows = [line.split() for line in (routes / "ipv6_route").read_text().splitlines()]
        found |= {row[-1] for row in rows if len(row) == 10 and row[0] == "0" * 32 and row[1] == "00" and row[-1] != "lo"}
    return found


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def probe_proxy(environ: Mapping[str, str]) -> ProxyFacts:
    """Proxies and trusted CAs as the client would use them."""
    try:
        config = NetConfig.from_environ(environ)
        found = {scheme: config.proxy_for(scheme, "origin.example") for scheme in ("http", "https")}
        shown = {scheme: f"{proxy.host}:{proxy.port}" for scheme, proxy in found.items() if proxy is not None}
        bypasses = config.proxy_for("http", _METADATA) is None
        context = config.tls_context()
    except PrestageError as exc:
        return ProxyFacts(error=exc.message, hint=exc.hint)
    bundle = config.ca_bundle
    # Certificates of a directory are loaded when they are needed: none are counted before.
    counted = None if bundle is not None and bundle.is_dir() else len(context.get_ca_certs())
    return ProxyFacts(
        shown, bypasses, str(bundle) if bundle is not None else None, counted or (None if bundle is None else counted)
    )


class _Dated(HttpClient):
    """Notes how far this clock is from the first server that states its own."""

    skew_s: float | None = None

    def open(self, request: HttpRequest, leaving: threading.Event | None = None) -> HttpBody:
        """See `net.ports.Client.open`."""
        before = time.time()
        body = super().open(request, leaving)
        if self.skew_s is None:
            with suppress(ValueError, TypeError, IndexError):
                stated = email.utils.parsedate_to_datetime(body.head.headers.get("date", "")).timestamp()
                # Cut to whole seconds, and on its way between the two: the middle of what is possible.
                self.skew_s = (before + time.time()) / 2 - (stated + 0.5)
        return body


def probe_origin(
    ref: str, environ: Mapping[str, str], clock: ClockFacts, budget_s: float = 15.0
) -> tuple[OriginFacts, ClockFacts]:
    """Resolve `ref`, fetching nothing, and compare clocks on the way."""
    began = time.monotonic()
    try:
        client = _Dated(NetConfig.from_environ(environ))
    except PrestageError as exc:
        return OriginFacts(ref, error_kind=exc.kind, error=exc.message, hint=exc.hint), clock
    try:
        parsed = parse_ref(ref)
        manifest = open_origin(parsed, client=client, environ=environ, rules=RetryRules(budget_s=budget_s)).resolve(Selection())
        took = time.monotonic() - began
        facts = OriginFacts(parsed.name, len(manifest.files), manifest.size_bytes, manifest.is_weak, took)
    except PrestageError as exc:
        facts = OriginFacts(ref, error_kind=exc.kind, error=exc.message, hint=exc.hint)
    finally:
        client.close()
    return facts, replace(clock, skew_s=client.skew_s)
