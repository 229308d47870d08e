"""Probes on trees made for them, and on this machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from prestage.cacher.doctor.facts import ClockFacts, FileFacts
from prestage.cacher.doctor.files import PREFIX, clean, probe_disk, probe_files
from prestage.cacher.doctor.place import probe_place, probe_room, probe_store
from prestage.cacher.doctor.system import probe_clock, probe_links, probe_origin, probe_process, probe_proxy
from prestage.cacher.store.store import Store
from servers.answers import plain
from servers.hostile import Hostile


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "membership", "memory", "cores"),
    [
        ({"a/b/memory.max": "max\n", "a/memory.max": "1073741824\n", "a/b/cpu.max": "50000 100000\n"}, "0::/a/b\n", 1 << 30, 0.5),
        ({"a/b/memory.max": "536870912\n", "a/memory.max": "max\n", "a/cpu.max": "max 100000\n"}, "0::/a/b\n", 1 << 29, None),
        (
            {
                "memory/p/memory.limit_in_bytes": "268435456\n",
                "cpu/p/cpu.cfs_quota_us": "-1",
                "cpu/p/cpu.cfs_period_us": "100000",
            },
            "4:memory:/p\n1:cpu:/p\n0::/\n",
            1 << 28,
            None,
        ),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, "4:memory:/gone\n", None, None),
        ({"cpu/p/cpu.cfs_quota_us": "150000", "cpu/p/cpu.cfs_period_us": "100000"}, "1:cpu:/p\n", None, 1.5),
        ({}, "0::/\n", None, None),
    ],
)
def test_the_tightest_control_group_counts(
    files: dict[str, str], membership: str, memory: int | None, cores: float | None, tmp_path: Path
) -> None:
    groups = tree(tmp_path / "groups", files or {"none": ""})
    (tmp_path / "membership").write_text(membership)
    found = probe_process(groups, tmp_path / "membership")
    usable = float(len(os.sched_getaffinity(0)))
    assert found.memory_max_bytes == memory
    assert found.cores == (min(usable, cores) if cores is not None else usable)


ROUTES = (
    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
    "bond0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\neth9\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"
)


def test_links_are_those_that_lead_somewhere(tmp_path: Path) -> None:
    net = tree(
        tmp_path / "net",
        {
            "lo/operstate": "unknown",
            "bond0/operstate": "up",
            "bond0/speed": "50000",
            "bond0/mtu": "9001",
            "eth1/operstate": "up",
            "eth1/speed": "-1",
            "eth1/mtu": "1500",
            "eth1/device/vendor": "0x1",
            "eth2/operstate": "down",
            "eth2/device/vendor": "0x1",
            "veth7/operstate": "up",
        },
    )
    routes = tree(tmp_path / "proc", {"route": ROUTES})
    links = probe_links(net, routes)
    assert [(link.name, link.bits_per_s, link.mtu, link.is_default) for link in links] == [
        ("bond0", 50e9, 9001, True),
        ("eth1", None, 1500, False),
    ]
    assert probe_links(tmp_path / "none", tmp_path / "none") == ()


def test_files_are_tried_and_nothing_is_left(tmp_path: Path) -> None:
    found = probe_files(tmp_path)
    assert found.error is None
    assert found.hardlinks
    assert found.fsync_s is not None
    assert list(tmp_path.iterdir()) == []
    assert probe_files(tmp_path / "none") == FileFacts(error="No such file or directory")


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}dead").write_bytes(b"")
    (tmp_path / "mine").write_bytes(b"")
    clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_disk_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    found = probe_disk(tmp_path, quick=False)
    assert found.measured_bytes > 0
    assert (found.write_bytes_per_s or 0) > 0
    assert (found.read_bytes_per_s or 0) > 0
    assert list(tmp_path.iterdir()) == []
    quick = probe_disk(tmp_path, quick=True)
    assert (quick.measured_bytes, quick.why) == (0, "--quick")


def test_a_directory_is_examined_where_it_is_or_where_it_will_be(tmp_path: Path) -> None:
    here = probe_place(tmp_path)
    assert (here.exists, here.is_directory, here.is_writable) == (True, True, True)
    later = probe_place(tmp_path / "a" / "b")
    assert (later.exists, later.examined, later.is_directory) == (False, str(tmp_path), True)
    (tmp_path / "file").write_bytes(b"")
    assert not probe_place(tmp_path / "file").is_directory


def test_a_store_is_recognised_with_its_owner_and_without_disturbing_it(tmp_path: Path) -> None:
    root = tmp_path / "store"
    assert not probe_store(root).is_store
    with Store.open(root, own=True, purpose="a test"):
        found = probe_store(root)
        assert (found.is_store, found.owner_pid, found.owner_purpose) == (True, os.getpid(), "a test")
    assert (probe_store(root).is_store, probe_store(root).owner_pid) == (True, None)
    (root / "owner").write_text(json.dumps({"pid": 2**22 + 1, "purpose": "dead", "since": time.time()}))
    assert probe_store(root).owner_pid is None
    (root / "format").write_text("{")
    assert probe_store(root).error_kind == "misconfigured"


def test_what_is_no_store_is_said_before_a_stage_says_it(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"")
    found = probe_store(tmp_path)
    assert found.error is not None
    assert "cat.jpg" in found.error


def test_room_is_measured_against_the_first_configuration_that_says_something(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("kind: KubeletConfiguration\n")
    (tmp_path / "kubelet.yaml").write_text("evictionHard:\n  nodefs.available: 7%\n")
    found = probe_room(tmp_path, [tmp_path / "none", tmp_path / "empty.yaml", tmp_path / "kubelet.yaml"])
    assert (found.thresholds, found.thresholds_from) == ({"nodefs.available": "7%"}, str(tmp_path / "kubelet.yaml"))
    assert 0 < found.free_bytes < found.total_bytes
    assert probe_room(tmp_path, []).thresholds_from is None


def test_proxies_are_shown_without_their_credentials() -> None:
    found = probe_proxy({"HTTPS_PROXY": "http://user:secret@proxy:3128", "http_proxy": "http://proxy:3128"})
    assert found.proxies == {"http": "proxy:3128", "https": "proxy:3128"}
    assert not found.bypasses_metadata
    assert "secret" not in repr(found)
    assert probe_proxy({"http_proxy": "http://p:1", "no_proxy": "169.254.169.254"}).bypasses_metadata
    assert probe_proxy({"PRESTAGE_CA_BUNDLE": "/none/ca.pem"}).error is not None
    assert probe_proxy({"https_proxy": "socks5://p:1"}).error is not None


def test_the_kernels_clock_is_asked() -> None:
    found = probe_clock()
    assert found.is_synchronised in (True, False, None)
    assert (found.error_s is not None) == (found.is_synchronised is True)


@pytest.mark.parametrize(("off_s", "least", "most"), [(0, -3, 3), (3600, -3603, -3597)])
def test_an_origins_date_tells_how_far_the_clocks_are_apart(off_s: int, least: float, most: float) -> None:
    with Hostile({"/f.bin": b"x" * 10}) as server:
        stamp = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + off_s))
        server.choose = lambda request: lambda _request, answer: answer.with_header("Date", stamp)
        origin, clock = probe_origin(server.url("/f.bin"), {"HOME": "/none"}, ClockFacts(True))
    assert (origin.files, origin.size_bytes, origin.error) == (1, 10, None)
    assert clock.is_synchronised
    assert clock.skew_s is not None
    assert least < clock.skew_s < most


def test_an_origin_that_refuses_is_a_finding_and_its_date_counts_too() -> None:
    with Hostile() as server:
        server.choose = lambda request: lambda _request, _answer: plain(403, b"no", {"Date": "Thu, 01 Jan 1998 00:00:00 GMT"})
        origin, clock = probe_origin(server.url("/f.bin"), {"HOME": "/none"}, ClockFacts())
    assert origin.error_kind == "denied"
    assert (clock.skew_s or 0) > 10**8
    origin, _ = probe_origin("ftp://x/y", {}, ClockFacts())
    assert origin.error_kind == "misconfigured"
