"""A tag that moves between staging and pull: the pull decides, and what was for nothing is known."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest
from layers import Made, Tar, image
from layers.node import NEEDS, Node

from prestage.images.use import Use
from servers.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]
COMMON, FIRST, SECOND = (Tar().file(name, name.encode() * 5000).end() for name in ("common", "first", "second"))


@pytest.fixture
def versions() -> tuple[Made, Made]:
    first, second = (image([(COMMON, "gzip"), (own, "gzip")]) for own in (FIRST, SECOND))
    return first, second


def test_what_a_pull_of_a_moved_tag_did_not_find_of_use_is_counted(
    registry: Registry, node: Node, versions: tuple[Made, Made]
) -> None:
    first, second = versions
    name = registry.push("w/moved", "v1", first)
    node.stage(name)
    assert [(row.use, row.wasted_bytes) for row in node.listed()] == [(Use.UNUSED, 0)]
    registry.push("w/moved", "v1", second)
    node.pull(name)
    assert [(row.use, row.wasted_bytes) for row in node.listed()] == [(Use.MOVED, len(first.blobs[first.layers[1]]))]
    argv = [sys.executable, "-m", "prestage.cacher.cli", "images", "list", "--containerd", str(node.containerd.socket)]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(r"warm .* moved, .* wasted  ", said), said
    node.stage(name)
    uses = {row.artifact: row.use for row in node.listed()}
    assert uses[node.resolve(name).artifact] is Use.USED
    assert sorted(uses.values()) == [Use.MOVED, Use.USED]


def test_what_was_pulled_once_stays_of_use_when_the_kubelet_has_collected_it_and_its_tag_moves(
    registry: Registry, node: Node, versions: tuple[Made, Made]
) -> None:
    first, second = versions
    name = registry.push("w/used", "v1", first)
    node.stage(name)
    node.pull(name)
    assert [row.use for row in node.listed()] == [Use.USED]
    asyncio.run(node.containerd.kubelet().remove(name))
    registry.push("w/used", "v1", second)
    node.pull(name)
    assert [(row.use, row.wasted_bytes) for row in node.listed()] == [(Use.USED, 0)]


def test_a_tag_that_moved_before_it_was_staged_has_wasted_nothing(
    registry: Registry, node: Node, versions: tuple[Made, Made]
) -> None:
    first, second = versions
    name = registry.push("w/before", "v1", first)
    node.pull(name)
    registry.push("w/before", "v1", second)
    node.stage(name)
    assert [(row.use, row.wasted_bytes) for row in node.listed()] == [(Use.UNUSED, 0)]
    node.pull(name)
    assert [row.use for row in node.listed()] == [Use.USED]
