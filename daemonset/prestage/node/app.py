"""The agent container's composition root: the cacher's agent with the NodeCache as its plan and the broker as its origin."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.agent import app
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.service import Service
from prestage.cacher.refs import ArtifactRef
from prestage.kube.client import KubeApi
from prestage.kube.settings import KubeSettings
from prestage.node.broker_origin import BrokerOrigin
from prestage.node.plan import EvictionOrder
from prestage.node.sync import NodeSettings, NodeSync
from prestage.node.trust import Trusted
from prestage.wire.broker_client import BrokerClient, BrokerSettings


@dataclass(frozen=True, slots=True)
class NodeAgentConfig:
    """See the fields."""

    agent: AgentConfig
    node: str
    broker: BrokerSettings
    kubeconfig: Path | None = None
    trusted: Trusted = field(default_factory=Trusted)
    """As in `agent`: what the broker says of Origins is put in there."""
    is_beside_images: bool = False


class _Companion:
    """`NodeSync` with its connections, which want a running loop."""

    def __init__(self, config: NodeAgentConfig) -> None:
        self._config = config
        self._sync = NodeSync(
            NodeSettings(
                config.agent.root, config.node, config.broker.token, config.trusted, is_beside_images=config.is_beside_images
            ),
            BrokerClient(config.broker),
        )

    @property
    def policy(self) -> EvictionOrder:
        return self._sync.policy

    def open_artifact(self, ref: ArtifactRef, cancel: threading.Event) -> BrokerOrigin:
        return self._sync.open_artifact(ref, cancel)

    async def start(self, service: Service) -> None:
        await self._sync.start(service)

    async def run(self) -> None:
        settings = KubeSettings(kubeconfig=self._config.kubeconfig, user_agent="prestage-agent")
        async with await KubeApi.connect(settings) as api:
            try:
                await self._sync.run(api)
            finally:
                await self._sync.close()


def run(config: NodeAgentConfig) -> None:
    """Serve until SIGTERM or SIGINT; see agent.app.run."""
    app.run(config.agent, _Companion(config))
