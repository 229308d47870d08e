"""containerd as staging sees it: the parts of its API on one channel, and how it is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from google.protobuf.empty_pb2 import Empty

from prestage.images.containerd.channel import Channel
from prestage.images.containerd.content import Content
from prestage.images.containerd.images import Images
from prestage.images.containerd.leases import Leases
from prestage.images.containerd.setup import Setup, read_setup
from prestage.images.containerd.snapshots import Snapshots
from prestage.wire.containerd_pb2 import VersionAnswer

_VERSION = "/containerd.services.version.v1.Version/Version"


@dataclass(frozen=True, slots=True)
class Containerd:
    """Open it with `await Containerd.connect(…)`, close it with `async with`."""

    channel: Channel
    setup: Setup
    leases: Leases
    content: Content
    snapshots: Snapshots
    images: Images

    @classmethod
    async def connect(cls, socket: Path, snapshotter: str | None = None) -> Containerd:
        """`snapshotter`: default, the one that the kubelet's pulls use.

        Raises:
            Misconfigured: no socket there, or a snapshotter that containerd does not have.
            PrestageError: as the channel says.
        """
        channel = await Channel(socket).__aenter__()
        try:
            version = await channel.ask(_VERSION, Empty(), VersionAnswer)
            setup = await read_setup(channel, version.version, snapshotter)
        except BaseException:
            await channel.__aexit__(None, None, None)
            raise
        leases = Leases(channel)
        return cls(channel, setup, leases, Content(channel), Snapshots(channel, leases, setup.snapshotter), Images(channel))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.channel.__aexit__(kind, exc, trace)
