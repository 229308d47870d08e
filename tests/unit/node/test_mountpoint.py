"""An SSD that is not mounted is told from one that is, from inside a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from prestage.cacher.errors import Misconfigured
from prestage.node.mountpoint import is_on_a_disk_of_its_own

ROOT = Path("/mnt/nvme/prestage")
OTHERS = "22 1 0:20 / / rw - overlay overlay rw\n23 22 0:21 / /proc rw - proc proc rw\n"


def line(inside: str, at: str = "/mnt/nvme/prestage") -> str:
    return f"90 22 259:1 {inside} {at} rw,relatime master:1 - ext4 /dev/nvme1n1 rw\n"


@pytest.mark.parametrize("inside", ["/prestage", "/", "/@models"])
def test_a_disk_mounted_above_or_at_the_root_is_one(inside: str) -> None:
    assert is_on_a_disk_of_its_own(ROOT, OTHERS + line(inside))


@pytest.mark.parametrize("inside", ["/mnt/nvme/prestage", "/@/mnt/nvme/prestage", "/ostree/deploy/x/mnt/nvme/prestage"])
def test_a_folder_of_the_root_disk_is_none(inside: str) -> None:
    assert not is_on_a_disk_of_its_own(ROOT, OTHERS + line(inside))


def test_what_was_mounted_last_counts() -> None:
    assert is_on_a_disk_of_its_own(ROOT, line("/mnt/nvme/prestage") + line("/"))


def test_blanks_are_written_as_the_kernel_does() -> None:
    assert not is_on_a_disk_of_its_own(Path("/mnt/a b"), line(r"/mnt/a\040b", r"/mnt/a\040b"))


def test_a_root_that_is_no_mount_is_a_mistake_of_the_pod() -> None:
    with pytest.raises(Misconfigured, match="nothing is mounted at"):
        is_on_a_disk_of_its_own(ROOT, OTHERS)
