"""One suite over the fake and the real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from cluster.apiserver import ApiServer
from prestage.kube.client import KubeApi
from prestage.kube.contract import CONTRACT, Check, a_bookmark_moves_on_while_others_write
from prestage.kube.settings import KubeSettings
from prestage.kube.testing import FakeApi


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_fake(check: Check) -> None:
    api = FakeApi()
    asyncio.run(asyncio.wait_for(_now(check(api, "here", api.compact)), 30))


@pytest.mark.needs("kubernetes")
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_real_one(check: Check, api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with await KubeApi.connect(KubeSettings(kubeconfig=api_server.kubeconfig)) as api:
            await check(api, namespace, api_server.compact)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_bookmark_of_the_fake() -> None:
    asyncio.run(asyncio.wait_for(a_bookmark_moves_on_while_others_write(FakeApi(), "here", lasting_s=0.2), 30))


@pytest.mark.slow
@pytest.mark.needs("kubernetes")
def test_a_bookmark_of_the_real_one(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with await KubeApi.connect(KubeSettings(kubeconfig=api_server.kubeconfig)) as api:
            await a_bookmark_moves_on_while_others_write(api, namespace, lasting_s=150)

    asyncio.run(asyncio.wait_for(run(), 200))


async def _now(asked: Awaitable[None]) -> None:
    await asked
