"""The service's answers: what it remembers of them, and what they do not wait for."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import cast

import pytest
from stores.making import Model, content, stage

from prestage.cacher.agent import service as module
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.messages import NamedRequest, VerifyRequest
from prestage.cacher.agent.service import Service
from prestage.cacher.agent.stages import Stages
from prestage.cacher.store.store import Store
from prestage.cacher.store.verify import VerifyReport

MODEL = Model({"a.bin": content(10_000, "a")}, "s3://bucket/a/", "s3:bucket")


class NoStages:
    """Of an agent that stages nothing."""


def test_a_client_who_asks_for_one_artifact_by_ever_other_patterns_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KNOWN_MAX", 5)
    with Store.open(tmp_path / "store", own=True, margin_bytes=0) as store:
        stage(store, MODEL)
        config = AgentConfig(root=store.root, socket=tmp_path / "s")

        async def ask() -> None:
            service = Service(store, cast(Stages, NoStages()), config, asyncio.get_running_loop())
            for number in range(23):
                answer = await service.resolve(NamedRequest(MODEL.artifact, include=(f"*.{number}",)))
                assert answer.path == str(store.path(MODEL.artifact))
                assert 1 <= len(service._known) <= 5
            service.close()

        asyncio.run(ask())


def test_verifies_that_take_hours_keep_nobody_from_being_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def verify(self: Store, artifact: object, on_progress: object) -> VerifyReport:
        assert goes_on.wait(30)
        return VerifyReport()

    monkeypatch.setattr(Store, "verify", verify)
    with Store.open(tmp_path / "store", own=True, margin_bytes=0) as store:
        stage(store, MODEL)
        config = AgentConfig(root=store.root, socket=tmp_path / "s")

        async def last(service: Service) -> object:
            return [event async for event in service.verify(VerifyRequest())][-1]["event"]

        async def ask() -> None:
            service = Service(store, cast(Stages, NoStages()), config, asyncio.get_running_loop())
            verifies = [asyncio.create_task(last(service)) for _ in range(20)]
            await asyncio.sleep(0.1)
            async with asyncio.timeout(10):
                assert (await service.resolve(NamedRequest(MODEL.artifact))).artifact == MODEL.artifact
            assert not any(one.done() for one in verifies)
            goes_on.set()
            assert await asyncio.gather(*verifies) == ["done"] * 20
            service.close()

        asyncio.run(ask())
