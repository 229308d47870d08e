"""Judgement over faked facts: each thing that can be wrong, its level, its class, and that it says what to do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    RoomFacts,
    StoreFacts,
)
from prestage.cacher.doctor.findings import Finding, Level, error, exit_code, ok, warning
from prestage.cacher.doctor.judgement import judge
from prestage.cacher.doctor.room import eviction_hard, threshold

GB = 10**9
PLACE = PlaceFacts(
    root="/data/store",
    examined="/data/store",
    exists=True,
    mount_point="/data",
    filesystem="ext4",
    source="/dev/nvme0n1",
    options=("rw", "relatime"),
    mode=0o700,
    owner_uid=1000,
    uid=1000,
)
FILES = FileFacts(True, False, 512, True, 0.002, 0.01)
ROOM = RoomFacts(1000 * GB, 500 * GB, 1000, 900, GB)
GOOD = Facts(
    place=PLACE,
    files=FILES,
    disk=DiskFacts(8 << 20, 1.5e9, 2e9, 256 << 20),
    room=ROOM,
    clock=ClockFacts(True, 0.001),
    process=ProcessFacts(65536, 8 << 20, None, 8.0),
    links=(Link("eth0", 25e9, 9001, True),),
    proxy=ProxyFacts(certificates=140),
    store=StoreFacts(True),
)


def findings(facts: Facts, check: str) -> list[Finding]:
    return [finding for finding in judge(facts) if finding.check == check]


def only(facts: Facts, check: str) -> Finding:
    (finding,) = findings(facts, check)
    return finding


def test_a_good_machine_has_no_warning_and_exit_code_0() -> None:
    said = judge(GOOD)
    assert {finding.level for finding in said} == {Level.OK, Level.NOTE}
    assert [finding.check for finding in said if finding.level is Level.NOTE] == ["reflinks"]
    assert exit_code(said) == 0


SHARED = replace(ROOM, shares=("nodefs", "imagefs"))
WRONG: dict[str, tuple[Facts, str, str, str]] = {
    "a file as root": (replace(GOOD, place=replace(PLACE, is_directory=False)), "root", "error", "misconfigured"),
    "no root yet": (replace(GOOD, place=replace(PLACE, exists=False)), "root", "note", ""),
    "read-only": (replace(GOOD, place=replace(PLACE, options=("ro",))), "filesystem", "error", "misconfigured"),
    "tmpfs": (replace(GOOD, place=replace(PLACE, filesystem="tmpfs")), "filesystem", "warning", ""),
    "overlay": (replace(GOOD, place=replace(PLACE, filesystem="overlay")), "filesystem", "warning", ""),
    "nfs": (replace(GOOD, place=replace(PLACE, filesystem="nfs4")), "filesystem", "warning", ""),
    "fuse": (replace(GOOD, place=replace(PLACE, filesystem="fuse.s3fs")), "filesystem", "warning", ""),
    "btrfs": (replace(GOOD, place=replace(PLACE, filesystem="btrfs")), "filesystem", "note", ""),
    "no barriers": (replace(GOOD, place=replace(PLACE, options=("rw", "nobarrier"))), "options", "warning", ""),
    "the root disk": (replace(GOOD, place=replace(PLACE, mount_point="/")), "mount", "note", ""),
    "somebody else's": (replace(GOOD, place=replace(PLACE, owner_uid=0)), "permissions", "error", "misconfigured"),
    "not to be written": (replace(GOOD, place=replace(PLACE, is_writable=False)), "permissions", "error", "misconfigured"),
    "open to others": (replace(GOOD, place=replace(PLACE, mode=0o755)), "permissions", "note", ""),
    "a damaged store": (replace(GOOD, store=StoreFacts(error_kind="corrupt", error="bad")), "store", "error", "corrupt"),
    "no store": (replace(GOOD, store=StoreFacts()), "store", "note", ""),
    "no files": (replace(GOOD, files=FileFacts(error="Input/output error")), "files", "error", "unavailable"),
    "no links": (replace(GOOD, files=replace(FILES, hardlinks=False)), "hardlinks", "error", "misconfigured"),
    "no O_DIRECT": (replace(GOOD, files=replace(FILES, direct_alignment=0)), "direct", "warning", ""),
    "big blocks": (replace(GOOD, files=replace(FILES, direct_alignment=65536)), "direct", "warning", ""),
    "no fallocate": (replace(GOOD, files=replace(FILES, preallocates=False)), "fallocate", "warning", ""),
    "slow fsync": (replace(GOOD, files=replace(FILES, fsync_s=0.4)), "fsync", "warning", ""),
    "small read-ahead": (replace(GOOD, disk=replace(GOOD.disk, read_ahead_bytes=128 << 10)), "read-ahead", "note", ""),
    "slow disk": (replace(GOOD, disk=replace(GOOD.disk, write_bytes_per_s=80e6)), "disk", "warning", ""),
    "not measured": (replace(GOOD, disk=DiskFacts(why="--quick")), "disk", "note", ""),
    "full": (replace(GOOD, room=replace(ROOM, free_bytes=GB)), "room", "error", "full"),
    "no inodes": (replace(GOOD, room=replace(ROOM, free_inodes=10)), "inodes", "warning", ""),
    "shared with the kubelet": (replace(GOOD, room=SHARED), "kubelet", "warning", ""),
    "evicting already": (replace(GOOD, room=replace(SHARED, free_bytes=120 * GB)), "kubelet", "error", "full"),
    "no route": (replace(GOOD, links=()), "network", "note", ""),
    "slow link": (replace(GOOD, links=(Link("eth0", 1e9, 1500, True),)), "network", "note", ""),
    "bad proxy": (replace(GOOD, proxy=ProxyFacts(error="no", hint="do")), "proxy", "error", "misconfigured"),
    "metadata by proxy": (
        replace(GOOD, proxy=ProxyFacts({"http": "p:3128"}, bypasses_metadata=False)),
        "proxy",
        "warning",
        "",
    ),
    "no CAs": (replace(GOOD, proxy=ProxyFacts(ca_bundle="/ca", certificates=0)), "ca", "error", "misconfigured"),
    "no NTP": (replace(GOOD, clock=ClockFacts(False)), "clock", "warning", ""),
    "no NTP, but right": (replace(GOOD, clock=ClockFacts(False, None, 0.3)), "clock", "note", ""),
    "some skew": (replace(GOOD, clock=ClockFacts(True, 0.1, -120)), "clock", "warning", ""),
    "much skew": (replace(GOOD, clock=ClockFacts(True, 0.1, 3600)), "clock", "error", "denied"),
    "few files": (replace(GOOD, process=replace(GOOD.process, nofile=256)), "nofile", "warning", ""),
    "little memory": (replace(GOOD, process=replace(GOOD.process, memory_max_bytes=128 << 20)), "memory", "warning", ""),
    "half a core": (replace(GOOD, process=replace(GOOD.process, cores=0.5)), "cpu", "note", ""),
    "origin refuses": (replace(GOOD, origin=OriginFacts("r", error_kind="denied", error="no")), "origin", "error", "denied"),
    "weak origin": (replace(GOOD, origin=OriginFacts("r", 1, 1, is_weak=True)), "origin", "note", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_has_its_level_its_class_and_what_to_do(case: str) -> None:
    facts, check, level, kind = WRONG[case]
    finding = only(facts, check)
    assert (finding.level, finding.kind or "") == (level, kind)
    assert finding.do or level == "note"
    codes = {"": 0, "misconfigured": 2, "denied": 4, "corrupt": 5, "full": 7, "unavailable": 8}
    assert exit_code(judge(facts)) == codes[kind]


def test_the_exit_code_is_that_of_the_first_error() -> None:
    said = [ok("a", "x"), warning("b", "x", "y"), error("c", "x", "y", "full"), error("d", "x", "y", "denied")]
    assert exit_code(said) == 7
    assert exit_code(said[:2]) == 0


def test_root_may_look_after_anybodys_store() -> None:
    assert only(replace(GOOD, place=replace(PLACE, uid=0)), "permissions").level == "ok"


def test_what_was_not_found_out_is_not_said() -> None:
    unknown = replace(GOOD, files=FileFacts(), disk=DiskFacts(), room=None, clock=ClockFacts(), process=ProcessFacts())
    said = judge(unknown)
    assert not {finding.check for finding in said} & {"hardlinks", "direct", "fsync", "read-ahead", "room", "nofile"}
    assert exit_code(said) == 0


def test_json_is_one_flat_object_a_finding() -> None:
    rows = json.loads(json.dumps([finding.to_json() for finding in judge(GOOD)]))
    assert all(set(row) == {"check", "level", "found", "do", "kind"} for row in rows)


def test_the_owner_is_named_with_what_it_does() -> None:
    store = StoreFacts(True, owner_pid=42, owner_purpose="prestage stage hf://o/n", owner_since_s=75)
    assert only(replace(GOOD, store=store), "store").found == (
        "a store, owned by process 42 (prestage stage hf://o/n) since 1 min 15 s ago"
    )


def test_the_kubelets_own_thresholds_count_where_it_says_some() -> None:
    room = replace(SHARED, thresholds={"nodefs.available": "1Gi", "imagefs.available": "200Mi"}, thresholds_from="/k.yaml")
    finding = only(replace(GOOD, room=room), "kubelet")
    assert "1Gi" in finding.found
    assert "/k.yaml" in finding.found
    silent = replace(room, thresholds={"memory.available": "100Mi"})
    assert only(replace(GOOD, room=silent), "kubelet").level == "note"
    roomy = replace(room, margin_bytes=2 * GB)
    assert only(replace(GOOD, room=roomy), "kubelet").level == "ok"


KUBELET_YAML = """apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
evictionHard:  # ours
  memory.available: 100Mi
  nodefs.available: "12%"   # more than usual
  # imagefs.available: 1%
  "imagefs.available": 20%
  nodefs.inodesFree: 5%

evictionSoft:
  nodefs.available: 50%
"""


def test_a_kubelets_configuration_is_read_in_yaml_and_in_json() -> None:
    said = {"nodefs.available": "12%", "imagefs.available": "20%", "nodefs.inodesFree": "5%"}
    assert eviction_hard(KUBELET_YAML) == said
    assert eviction_hard(json.dumps({"evictionHard": said})) == said
    assert eviction_hard("kind: KubeletConfiguration\n") is None
    assert eviction_hard("{}") is None
    assert eviction_hard("evictionHard:\n") == {}


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_none(text: str) -> None:
    for config in (text, f"evictionHard:\n{text}", json.dumps({"evictionHard": text})):
        said = eviction_hard(config)
        for rule in (said or {}).values():
            assert (threshold(rule, 10**12) or 0) >= 0


@given(st.text(max_size=20))
def test_any_text_is_a_threshold_or_none(text: str) -> None:
    limit = threshold(text, 10**12)
    assert limit is None or limit >= 0


@pytest.mark.parametrize(("text", "limit"), [("10%", 100), ("1.5%", 15), ("1Ki", 1024), ("100", 100), ("x", None), ("-1", None)])
def test_a_threshold_is_a_part_of_the_whole_or_a_quantity(text: str, limit: int | None) -> None:
    assert threshold(text, 1000) == limit
