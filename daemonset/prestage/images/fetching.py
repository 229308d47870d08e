"""Where the layers of an image come from: its registry, through the house's engine, straight on to whoever reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from prestage.cacher.net.ports import Client
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Priority
from prestage.images.arriving import Arrived, ignored
from prestage.images.containerd.placing import Unnamed
from prestage.images.descriptors import Descriptor
from prestage.images.incoming import Incoming, Wanted
from prestage.images.landing import Landing
from prestage.images.layers import LayerOrigin
from prestage.images.registry import Registry


class Fetcher(Protocol):
    """Where the layers of one image come from."""

    def fetch(self, wanted: Sequence[Wanted], arrived: Arrived = ignored) -> AbstractAsyncContextManager[Incoming]:
        """These, in this order: that is how they are read. At its end nothing of them is under way or kept."""
        ...

    def land(
        self, blobs: Sequence[Descriptor], file_of: Callable[[Descriptor], Unnamed], arrived: Arrived = ignored
    ) -> AbstractAsyncContextManager[Landing]:
        """These, in this order, each into a file. At its end nothing of them is under way, and no file is open."""
        ...


class LayerFetcher:
    """See the module. `client` is the one that the policy of the image's namespace allows."""

    def __init__(self, engine: Engine, client: Client, registry: Registry, priority: Priority = Priority.DECLARED) -> None:
        self._engine, self._client, self._registry, self._priority = engine, client, registry, priority

    def fetch(self, wanted: Sequence[Wanted], arrived: Arrived = ignored) -> AbstractAsyncContextManager[Incoming]:
        """See `Fetcher`."""
        return Incoming(self._engine, wanted, self._source, arrived, self._priority)

    def land(
        self, blobs: Sequence[Descriptor], file_of: Callable[[Descriptor], Unnamed], arrived: Arrived = ignored
    ) -> AbstractAsyncContextManager[Landing]:
        """See `Fetcher`."""
        return Landing(self._engine, blobs, self._source, file_of, arrived, self._priority)

    def _source(self, blob: Descriptor) -> OriginSource:
        origin = LayerOrigin(self._registry, blob)
        manifest = origin.resolve(Selection())
        return OriginSource(origin, self._client, manifest, manifest.files[0], lane=self._registry.authority)
