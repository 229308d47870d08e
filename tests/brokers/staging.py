"""A node's store that is filled by what a broker hands out: everything but the agent's own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brokers import Broker
from prestage.cacher.digests import ArtifactId
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.refs import ArtifactRef
from prestage.cacher.staging import Stager, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from prestage.node.broker_origin import Asking, BrokerOrigin, Senders
from prestage.node.trust import Trusted


@dataclass(frozen=True, slots=True)
class StagingNode:
    """One node."""

    name: str
    store: Store
    stager: Stager
    senders: Senders
    trusted: Trusted

    async def stage(self, broker: Broker, artifact: str) -> dict[str, bytes]:
        """Once it is in the node's plan: its files, as a pod would see them."""
        await broker.plan(self.name, artifact)
        asking = Asking(broker.node(self.name), asyncio.get_running_loop(), self.trusted)
        return await asyncio.to_thread(self._stage, artifact, asking)

    def _stage(self, artifact: str, asking: Asking) -> dict[str, bytes]:
        ref = ArtifactRef(ArtifactId(artifact))
        made = self.stager.stage(Wish(ref), BrokerOrigin(ref, asking, self.senders, threading.Event()))
        paths = [path for path in made.path.rglob("*") if path.is_file() and ".prestage" not in path.parts]
        return {path.relative_to(made.path).as_posix(): path.read_bytes() for path in paths}


@contextmanager
def staging_node(name: str, folder: Path) -> Iterator[StagingNode]:
    """With an empty store."""
    folder.mkdir()
    senders, trusted = Senders(NetConfig(), AddressPolicy.tenant(refuse_private=True), folder), Trusted()
    try:
        with Store.open(folder / "store", own=True, trusted=trusted) as store, Engine(Limits()) as engine:
            yield StagingNode(name, store, Stager(store, engine, senders.of(None)), senders, trusted)
    finally:
        senders.close()
