"""What a node does with what the broker hands it, and nothing else: no credential, no redirect, ranges."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from prestage.api.brokerage import Fetch, FetchesAnswer
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.net.ports import HttpRequest


async def fetched(answer: FetchesAnswer, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """As a node does it: the URL, the headers, a range; no credential of its own."""
    policy = AddressPolicy.tenant(allow=answer.allowed_cidrs or (), refuse_private=True)
    client = HttpClient(NetConfig(), policy)
    try:
        return {one.path: await asyncio.to_thread(_fetch, client, one, sizes[one.path]) for one in answer.fetches}
    finally:
        client.close()


def _fetch(client: HttpClient, one: Fetch, size: int) -> bytes:
    if one.body is not None:
        assert one.url == ""
        return one.body
    if not size:
        return b""
    made = bytearray()
    for start in range(0, size, 100_000):
        span = {"Range": f"bytes={start}-{min(start + 100_000, size) - 1}", "Accept-Encoding": "identity"}
        reply = client.fetch(HttpRequest(one.url, {**one.headers, **span}), redirects=0)
        assert reply.head.status in (200, 206), reply.body[:300]
        if reply.head.status == 200:
            return reply.body
        made += reply.body
    return bytes(made)
