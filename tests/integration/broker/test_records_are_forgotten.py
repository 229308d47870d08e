"""The planner says whose records nobody needs any more; nobody else can."""

from __future__ import annotations

from pathlib import Path

import pytest
from brokers import Broker, Cluster, play, wish
from offers import MODEL, repository

from prestage.api.brokerage import RecordsRequest
from prestage.cacher.errors import Denied, NotFound
from prestage.control.broker.records import Records
from prestage.wire.broker_client import refusal_of
from servers.hub import Hub


def test_the_planner_alone_says_which_owners_are_gone(hub: Hub, tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.namespace("team-a")
    repository(hub, "org/public", dict(MODEL))
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)

    async def test(broker: Broker) -> None:
        for uid in ("web", "gone"):
            made = await broker.planner.resolve(wish("hf://org/public@main", uid=uid))
        request = RecordsRequest(namespace="team-a", artifact=made.artifact, unseen=["gone"])
        with pytest.raises(Denied) as found:
            await broker.node("n1").records(request)
        refusal = refusal_of(found.value)
        assert refusal is not None
        assert refusal.code == "NotThePlanner"
        assert (await broker.planner.records(request)).templates == 2, "marked; it waits for a month"
        now = await Records(cluster).now("team-a", made.artifact)
        assert now is not None
        assert {row.uid: row.unseen_since is None for row in now.templates} == {"web": True, "gone": False}
        with pytest.raises(NotFound):
            await broker.planner.records(RecordsRequest(namespace="team-b", artifact=made.artifact, unseen=[]))

    play(cluster, tmp_path, test)
