"""One image onto this node, by what the broker gives: a mirror first, its registry where anything is wrong with that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from prestage.api.brokerage import ImageAnswer, ImageRequest
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt, Full, PrestageError, Unavailable
from prestage.cacher.origins.asking import Asker
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Priority
from prestage.images.descriptors import Platform, this_platform
from prestage.images.fetching import LayerFetcher
from prestage.images.progress import Progress
from prestage.images.runtime import Containerd
from prestage.images.stager import ImageStager, StagedImage, StagingTerms
from prestage.node.broker_origin import Senders
from prestage.node.images.handed import HandedRegistry
from prestage.node.images.reporting import Way

_AGAIN_S: Final = 60.0
"""For the broker's answer, in a thread that fetches."""


class Broker(Protocol):
    """The part of `BrokerClient` that is used."""

    async def image(self, request: ImageRequest, *, deadline_s: float | None = None) -> ImageAnswer:
        """How to pull it."""
        ...


@dataclass(frozen=True, slots=True)
class Staging:
    """What images are staged with; all of it stays its maker's to close."""

    containerd: Containerd
    engine: Engine
    broker: Broker
    senders: Senders
    terms: StagingTerms

    async def stage(self, artifact: ArtifactId, priority: Priority, told: Callable[[Way], None]) -> StagedImage:
        """Until containerd holds it, unpacked. Cancelled or killed, the next call goes on.

        Raises:
            PrestageError: what the broker, the registry or containerd says.
        """
        answer = await self._asked(artifact, mirrors=True)
        if answer.is_mirror:
            try:
                return await self._staged(artifact, answer, priority, told)
            except Full:
                raise
            except PrestageError:
                answer = await self._asked(artifact, mirrors=False)
        return await self._staged(artifact, answer, priority, told)

    async def _asked(self, artifact: ArtifactId, *, mirrors: bool) -> ImageAnswer:
        return await self.broker.image(ImageRequest(artifact=artifact, platform=_shown(this_platform()), mirrors=mirrors))

    async def _staged(
        self, artifact: ArtifactId, answer: ImageAnswer, priority: Priority, told: Callable[[Way], None]
    ) -> StagedImage:
        loop, client = asyncio.get_running_loop(), self.senders.of(answer)

        def again() -> ImageAnswer:
            asking = asyncio.run_coroutine_threadsafe(self._asked(artifact, mirrors=answer.is_mirror), loop)
            try:
                return asking.result(_AGAIN_S)
            except TimeoutError:
                asking.cancel()
                raise Unavailable("the broker does not answer", hint="it is asked again") from None

        registry = HandedRegistry(answer, Asker(client), again)
        image = await asyncio.to_thread(registry.resolve, this_platform())
        if image.artifact != artifact:
            raise Corrupt(f"{artifact} is another image at its registry", hint="was it made for another platform?")
        size_bytes = image.size_bytes

        def progressed(progress: Progress) -> None:
            fetched = max(0, size_bytes - (progress.fetch_total - progress.fetched))
            unpacked = max(0, size_bytes - (progress.unpack_total - progress.unpacked))
            told(Way(progress.step, fetched, unpacked, size_bytes))

        fetcher = LayerFetcher(self.engine, client, registry, priority)
        return await ImageStager(self.containerd, self.terms).stage(image, fetcher, progressed)


def _shown(platform: Platform) -> str:
    """As the broker reads it: the variant follows from the architecture."""
    return f"{platform.os}/{platform.architecture}"
