"""Residency as a pod sees it: another uid, a read-only bind mount. What we ask is right there; what others ask is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prestage.bench.cold import StillWarm, make_cold
from prestage.loader.residency import Residency, counted_bytes, open_probe, sampled

SIZE = 24 << 20
FOREIGN_UID = 1000

ASKED = """
import json, os, sys
from prestage.loader.residency import counted_bytes, open_probe, sampled
os.setgroups([]), os.setgid(1000), os.setuid(1000)
probe = open_probe(sys.argv[1])
size = os.fstat(probe).st_size
print(json.dumps({
    "uid": os.getuid(),
    "halves": [sampled(probe, 0, size // 2).value, sampled(probe, size // 2, size).value],
    "whole": sampled(probe, 0, size).value,
    "counted": counted_bytes(probe),
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("residency")
    (made / "file").write_bytes(os.urandom(1 << 20) * 24)
    try:
        make_cold([made / "file"])
    except StillWarm:
        pytest.skip("the temporary folder lies in memory (tmpfs), which has no cold state")
    return made


@pytest.fixture
def mounted(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The file on a read-only bind mount of its own, reachable for anybody."""
    if os.geteuid() != 0:
        pytest.skip("a read-only bind mount and another uid need root")
    target = tmp_path / "mount"
    target.mkdir()
    for parent in [folder, target, *target.parents]:
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run(["mount", "--bind", str(folder), str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(target)], check=True)
        yield target / "file"
    finally:
        subprocess.run(["umount", str(target)], check=True)


def halve(file: Path) -> None:
    """First half resident, second half not."""
    make_cold([file])
    with open(file, "rb", buffering=0) as source:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert len(source.read(SIZE // 2)) == SIZE // 2


def asked_as_a_foreign_uid(file: Path) -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", ASKED, str(file)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_foreign_uid_on_a_read_only_mount_is_told_the_truth(mounted: Path, folder: Path) -> None:
    halve(folder / "file")
    found = asked_as_a_foreign_uid(mounted)
    assert found == {"uid": FOREIGN_UID, "halves": ["resident", "absent"], "whole": "partly", "counted": None}


def test_asking_costs_a_page_a_place_and_other_places_are_as_absent_as_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = 20
    turns = iter(range(times))

    def drawn(size_bytes: int) -> bytes:
        """By chance two questions fall on one page, in half of all runs; here no two do."""
        return ((next(turns) << 32) // times).to_bytes(4, sys.byteorder) * (size_bytes // 4)

    monkeypatch.setattr(os, "urandom", drawn)
    make_cold([folder / "file"])
    probe = open_probe(str(folder / "file"))
    try:
        for _ in range(times):
            assert sampled(probe, 0, SIZE) is Residency.ABSENT
        counted = counted_bytes(probe)
        assert counted is None or counted <= times * 4 * 4096  # None: a kernel before 6.5
    finally:
        os.close(probe)


def test_no_two_questions_ask_the_same_places(folder: Path) -> None:
    """So what one fetched does not answer the next."""
    make_cold([folder / "file"])
    probe = open_probe(str(folder / "file"))
    try:
        found = [sampled(probe, 0, SIZE) for _ in range(20)]
    finally:
        os.close(probe)
    assert Residency.RESIDENT not in found


def test_the_owner_may_count_and_the_count_agrees_with_the_samples(folder: Path) -> None:
    halve(folder / "file")
    probe = open_probe(str(folder / "file"))
    try:
        counted = counted_bytes(probe)
        assert counted in (SIZE // 2, None)
        assert sampled(probe, 0, SIZE // 2) is Residency.RESIDENT
        assert sampled(probe, 0, SIZE) is Residency.PARTLY
    finally:
        os.close(probe)


def test_what_lies_in_memory_is_resident() -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        pytest.skip("no /dev/shm")
    file = shm / f"prestage-residency-{os.getpid()}"
    file.write_bytes(b"x" * 100_000)
    try:
        probe = open_probe(str(file))
        assert sampled(probe, 0, 100_000) is Residency.RESIDENT
        os.close(probe)
    finally:
        file.unlink()
