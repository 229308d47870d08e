"""Each Origin's own status: an operator sees from `kubectl get origins` which one the broker cannot use, and why."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from brokers import Broker, Cluster, play

from prestage.kube.resources import ORIGINS
from servers.hub import Hub


async def ready(cluster: Cluster, name: str) -> dict[str, str]:
    found = (await cluster.get(ORIGINS, name)).get("status") or {}
    rows = cast("dict[str, list[dict[str, str]]]", found).get("conditions", [])
    return rows[0] if rows else {}


@pytest.fixture
def dead() -> Iterator[str]:
    """Where nobody listens, and nobody else can."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{kept.getsockname()[1]}"


def test_each_origin_says_whether_it_answers_and_why_not(hub: Hub, dead: str, tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.origin("hub", "HuggingFace", endpoint=hub.endpoint)
    cluster.origin("dead", "S3", default=False, endpoint=dead)
    cluster.origin("walled", "S3", default=False, endpoint=hub.endpoint, cidrs=())
    cluster.origin("no-ca", "S3", endpoint=hub.endpoint, default=False, caBundleRef={"name": "none"})
    cluster.origin("copy", "HuggingFace", endpoint=hub.endpoint, default=False, mirrorOf={"name": "gone"})
    cluster.origin("newer", "S3", proxy="socks5://later.version")
    reasons = {
        "hub": "Reachable",
        "dead": "Unreachable",
        "walled": "Unreachable",
        "no-ca": "NoCA",
        "copy": "NoSuchOrigin",
        "newer": "Unreadable",
    }

    async def test(broker: Broker) -> None:
        async with asyncio.timeout(30):
            while {name: (await ready(cluster, name)).get("reason") for name in reasons} != reasons:
                await asyncio.sleep(0.1)
        for name, reason in reasons.items():
            assert (await ready(cluster, name))["status"] == ("True" if reason == "Reachable" else "False")
        assert "allowedCIDRs" in (await ready(cluster, "walled"))["message"]
        assert (await cluster.get(ORIGINS, "hub"))["status"]["checkedAt"]  # type: ignore[index]  # JSON
        version = (await cluster.get(ORIGINS, "hub"))["metadata"]["resourceVersion"]  # type: ignore[index]  # JSON
        await cluster.apply(
            ORIGINS, {"metadata": {"name": "dead"}, "spec": {"endpoint": hub.endpoint}}, manager="operator", force=True
        )
        async with asyncio.timeout(30):
            while (await ready(cluster, "dead"))["reason"] != "Reachable":
                await asyncio.sleep(0.1)
        assert (await cluster.get(ORIGINS, "hub"))["metadata"]["resourceVersion"] == version, "nothing new: nothing written"  # type: ignore[index]  # JSON

    play(cluster, tmp_path, test)
