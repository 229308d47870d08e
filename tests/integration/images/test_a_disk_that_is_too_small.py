"""containerd's file system, and ours, when an image does not fit: refused before its first byte, or let go of whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from layers import Tar, image, simple
from layers.node import NEEDS, Node, grpc_kept

from prestage.cacher.errors import Full
from prestage.images.stager import StagingTerms
from servers.containerd import Containerd
from servers.fixtures import require
from servers.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]
MB = 1_000_000
NOTHING: dict[str, list[str]] = {"leases": [], "blobs": [], "ingests": [], "snapshots": []}


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    require(*NEEDS)
    folder = Path(tempfile.mkdtemp(prefix="ctrd-"))
    try:
        with grpc_kept(), Containerd(folder, disk_bytes=48 * MB) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_what_will_not_fit_is_refused_before_its_first_byte(registry: Registry, node: Node) -> None:
    name = registry.push("t/large", "v1", simple(layers=2, size_bytes=10 * MB))
    asked = len(registry.asked(client="prestage"))
    node.terms = StagingTerms()
    with pytest.raises(Full, match="are left below 80% of containerd's disk"):
        node.stage(name)
    assert not [one for one in registry.asked(client="prestage")[asked:] if one.is_blob and one.bytes > 10_000]
    assert node.inventory() == NOTHING


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("where", ["fill", "unpack"])
def test_a_disk_that_fills_up_under_way_is_given_back(where: str, in_place: bool, registry: Registry, node: Node) -> None:
    """With a mark that lets it begin. Zeros are a thousand times as large once they are unpacked."""
    zeros = [(Tar().file(f"zeros/{number}", bytes(30 * MB)).end(), "gzip") for number in range(2)]
    made = image(zeros) if where == "unpack" else simple(layers=5, size_bytes=10 * MB, kind="none")
    name = registry.push(f"t/{where}", "v1", made)
    node.terms = StagingTerms(high_water=20.0, in_place=in_place)
    with pytest.raises(Full):
        node.stage(name)
    assert node.inventory() == NOTHING
    assert node.containerd.used_bytes() == 0
