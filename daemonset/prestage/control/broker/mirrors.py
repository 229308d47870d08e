"""Nearer copies: from which Origins a node gets an artifact's bytes before the one that it was resolved at.

    StorePool.mirrors   of the pools that select the node: refs that begin so, the longest beginning first
    Origin.mirrorOf     what it may stand for: only the Origin that the ref was resolved at
    digests             every file's must be stated by that Origin: the node holds the bytes against them, whoever sent them

A mirror proves nothing: it is never asked what an artifact is, nor whether a namespace may have it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prestage.api.policies import Origin, StorePool
from prestage.api.selecting import selects
from prestage.cacher.manifest import Manifest
from prestage.control.broker.view import View
from prestage.kube.errors import Missing
from prestage.kube.ports import Api, metadata_of
from prestage.kube.resources import NODES

MIRROR_S: Final = 10.0
"""One that is slow is as good as none."""
_LABELS_KEPT_S: Final = 60.0
_AWAY_S: Final = 60.0
_NODES_MOST: Final = 4096


def mirrors_of(
    ref: str, primary: Origin, pools: Iterable[StorePool], labels: Mapping[str, str], origins: Iterable[Origin]
) -> list[Origin]:
    """In order; none twice. Pure."""
    known = {one.metadata.name: one for one in origins}
    rows = [
        row
        for pool in sorted(pools, key=lambda one: one.metadata.name)
        if selects(pool.spec.node_selector, labels)
        for row in pool.spec.mirrors or ()
        if ref.startswith(row.prefix)
    ]
    found = dict[str, Origin]()
    for row in sorted(rows, key=lambda one: -len(one.prefix)):
        mirror = known.get(row.origin_ref.name)
        if mirror is not None and stands_for(mirror, primary):
            found.setdefault(mirror.metadata.name, mirror)
    return list(found.values())


def stands_for(mirror: Origin, primary: Origin) -> bool:
    """It is said to be a copy of just that one."""
    named = mirror.spec.mirror_of
    return named is not None and named.name == primary.metadata.name and mirror.spec.type is primary.spec.type


def is_provable(manifest: Manifest) -> bool:
    """The primary states what each file is, so that it does not matter who sends it."""
    return all(file.digest is not None for file in manifest.files if file.size_bytes)


class Mirrors:
    """Of nodes. One that does not answer is passed over for a minute."""

    def __init__(self, api: Api, view: View, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._view, self._clock = api, view, clock
        self._labels: dict[str, tuple[Mapping[str, str], float]] = {}
        self._away: dict[str, float] = {}

    async def of(self, node: str, ref: str, primary: Origin) -> list[Origin]:
        """Those that are to be tried now."""
        pools = [pool for pool in self._view.pools() if pool.spec.mirrors]
        if not pools:
            return []
        now = self._clock()
        found = mirrors_of(ref, primary, pools, await self._labels_of(node), self._view.origins())
        return [one for one in found if self._away.get(one.metadata.name, 0.0) <= now]

    def failed(self, mirror: Origin) -> None:
        """It did not answer, or not with what was asked for."""
        self._away[mirror.metadata.name] = self._clock() + _AWAY_S

    async def _labels_of(self, node: str) -> Mapping[str, str]:
        known = self._labels.get(node)
        if known is not None and known[1] > self._clock():
            return known[0]
        try:
            said = metadata_of(await self._api.get(NODES, node)).get("labels")
        except Missing:
            return {}
        labels = {str(name): str(value) for name, value in said.items()} if isinstance(said, Mapping) else {}
        if len(self._labels) >= _NODES_MOST:
            self._labels.clear()
        self._labels[node] = (labels, self._clock() + _LABELS_KEPT_S)
        return labels
