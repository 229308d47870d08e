"""Image records: only read. A record says that a pull has ended; none is ever written from here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prestage.images.containerd.channel import Channel
from prestage.images.names import OciDigest
from prestage.images.use import Record, Records
from prestage.wire.containerd_pb2 import Image, ImageListAnswer, ImageListRequest

_LIST = "/containerd.services.images.v1.Images/List"


class Images:
    """See the module."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def of(self, roots: Iterable[OciDigest]) -> Sequence[Image]:
        """The records whose target is one of `roots`."""
        request = ImageListRequest(filters=[f"target.digest=={root}" for root in roots])
        return (await self._channel.ask(_LIST, request, ImageListAnswer)).images

    async def records(self) -> Records:
        """All of them."""
        found = (await self._channel.ask(_LIST, ImageListRequest(), ImageListAnswer)).images
        return Records({one.name: Record(one.name, OciDigest(one.target.digest), _changed(one)) for one in found})


def _changed(image: Image) -> float:
    return image.updated_at.ToNanoseconds() / 1e9
