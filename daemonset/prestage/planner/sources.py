"""Where a node should take an artifact from: peers that hold it, each node other ones; then the origin."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from prestage.api.nodes import SourceType
from prestage.planner.nodes import NodeState
from prestage.planner.plans import ORIGIN, Source

PEERS_MAX = 3


def sources_of(artifact: str, node: NodeState, holders: Sequence[str]) -> tuple[Source, ...]:
    """What was said before stands while it is true: an ongoing stage is not disturbed by one more peer."""
    before = node.planned.get(artifact)
    peers = [name for name in holders if name != node.name]
    if before is not None and before.sources:
        said = [source.node for source in before.sources if source.type is SourceType.PEER]
        if node.is_warm(artifact) or (said and all(name in peers for name in said)):
            return before.sources
    if not peers:
        return (ORIGIN,)
    first = zlib.crc32(f"{node.name} {artifact}".encode()) % len(peers)
    turned = [*peers[first:], *peers[:first]][:PEERS_MAX]
    return (*(Source(SourceType.PEER, name) for name in turned), ORIGIN)
