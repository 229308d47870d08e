"""A registry that gives other bytes than its manifest says: containerd refuses them, and nothing of them stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from layers import Made, simple
from layers.node import NEEDS, Node

from prestage.images.moving import WrongBytes
from servers import faults
from servers.answers import Answer, Request
from servers.hostile import Hostile

pytestmark = [pytest.mark.slow, pytest.mark.needs(*NEEDS)]
MB = 1_000_000


@pytest.fixture(scope="module")
def made() -> Made:
    return simple(layers=3, size_bytes=3 * MB, seed=51)


@pytest.fixture
def liar(made: Made) -> Iterator[Hostile]:
    with Hostile({"/v2/app/manifests/v1": made.top}) as server:
        for digest, data in made.blobs.items():
            server.put(f"/v2/app/blobs/{digest}", data)
        yield server


def lies(made: Made, times: int) -> faults.Fault:
    """One bit of the second layer, in so many answers."""
    left = [times]

    def fault(request: Request, answer: Answer) -> Answer:
        if made.layers[1] not in request.path or request.range == (0, 1) or not left[0]:
            return answer
        left[0] -= 1
        return faults.Flip(at=MB)(request, answer)

    return fault


def name_at(server: Hostile) -> str:
    return f"{server.url('').removeprefix('http://')}/app:v1"


def test_wrong_bytes_that_pass_are_fetched_once_more(liar: Hostile, made: Made, node: Node) -> None:
    liar.always.append(lies(made, 1))
    staged = node.stage(name_at(liar))
    assert staged.fetched_bytes > made.layer_bytes
    assert [row.state for row in node.listed()] == ["warm"]


def test_wrong_bytes_that_do_not_pass_are_told_and_nothing_of_them_is_kept(liar: Hostile, made: Made, node: Node) -> None:
    liar.always.append(lies(made, 100))
    with pytest.raises(WrongBytes, match="a proxy changes its answers") as caught:
        node.stage(name_at(liar))
    assert not any(digest in str(caught.value) for digest in made.layers)
    found = node.inventory()
    assert made.layers[1] not in found["blobs"]
    assert not [ref for ref in found["ingests"] if made.layers[1] in ref]
    assert [row.state for row in node.listed()] == ["staging"]
    liar.always.clear()
    node.stage(name_at(liar))
    assert [row.state for row in node.listed()] == ["warm"]
