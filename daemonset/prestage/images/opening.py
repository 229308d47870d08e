"""What staging one image takes, put together: registry, containerd and our engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins.asking import Asker
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Priority
from prestage.images.descriptors import this_platform
from prestage.images.fetching import Fetcher, LayerFetcher
from prestage.images.image import Image
from prestage.images.logins import Login
from prestage.images.names import ImageName
from prestage.images.registry import Registry
from prestage.images.runtime import Containerd
from prestage.images.stager import ImageStager, StagingTerms


@dataclass(frozen=True, slots=True)
class Means:
    """What images are staged with; all of it stays its maker's to close."""

    socket: Path
    """containerd's."""
    engine: Engine
    client: HttpClient
    snapshotter: str | None = None
    """Default: the one that pulls use."""
    terms: StagingTerms = field(default_factory=StagingTerms)
    priority: Priority = Priority.DECLARED


@dataclass(frozen=True, slots=True)
class Opened:
    """An image, resolved, and what stages it."""

    stager: ImageStager
    fetcher: Fetcher
    image: Image


@asynccontextmanager
async def opened(
    name: ImageName, means: Means, login: Login | None = None, *, plain_http: bool | None = None
) -> AsyncIterator[Opened]:
    """Ask the registry what `name` is, and connect to containerd.

    Raises:
        PrestageError: as `Registry.resolve` and `Containerd.connect`.
    """
    registry = Registry(name, Asker(means.client), login, plain_http=plain_http)
    image = await asyncio.to_thread(registry.resolve, this_platform())
    async with await Containerd.connect(means.socket, means.snapshotter) as containerd:
        fetcher = LayerFetcher(means.engine, means.client, registry, means.priority)
        yield Opened(ImageStager(containerd, means.terms), fetcher, image)
