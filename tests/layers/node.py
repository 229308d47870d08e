"""A containerd and an engine of ours: what staging an image takes, in a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field

import grpc

from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins.asking import Asker
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from prestage.images.descriptors import this_platform
from prestage.images.image import Image
from prestage.images.logins import Login
from prestage.images.names import parse_oci
from prestage.images.opening import Means, Opened, opened
from prestage.images.registry import Registry
from prestage.images.runtime import Containerd as Runtime
from prestage.images.shelf import ShelfRow, listed
from prestage.images.stager import ImageStager, StagedImage, StagingTerms
from servers.containerd import Containerd, Row


@contextmanager
def grpc_kept() -> Iterator[None]:
    """gRPC's one thread for all event loops lives as long as anybody uses it: here from the first test to the last."""

    async def done(what: Callable[[], None]) -> None:
        what()

    asyncio.run(done(grpc.aio.init_grpc_aio))
    try:
        yield
    finally:
        asyncio.run(done(grpc.aio.shutdown_grpc_aio))


NEEDS = ("containerd", "docker-registry", "unshare", "root", "mount")


@dataclass
class Node:
    """A containerd, and what stages into it."""

    containerd: Containerd
    terms: StagingTerms = field(default_factory=lambda: StagingTerms(high_water=1.0))
    rate_bytes_per_s: float | None = None

    def resolve(self, name: str, login: tuple[str, str] | None = None) -> Image:
        with closing(HttpClient()) as client:
            registry = Registry(parse_oci(f"oci://{name}"), Asker(client), Login(*login) if login else None)
            return registry.resolve(this_platform())

    def stage(self, name: str, login: tuple[str, str] | None = None) -> StagedImage:
        return asyncio.run(self.staging(name, login))

    async def staging(self, name: str, login: tuple[str, str] | None = None) -> StagedImage:
        """To be cancelled, or run beside a pull."""
        async with self.open(name, login) as it:
            return await it.stager.stage(it.image, it.fetcher)

    @asynccontextmanager
    async def open(self, name: str, login: tuple[str, str] | None = None) -> AsyncIterator[Opened]:
        limits = Limits(connections_start=2, connections_max=4, rate_bytes_per_s=self.rate_bytes_per_s)
        with closing(HttpClient()) as client, Engine(limits) as engine:
            means = Means(self.containerd.socket, engine, client, terms=self.terms)
            async with opened(parse_oci(f"oci://{name}"), means, Login(*login) if login else None) as it:
                yield it

    def release(self, artifact: str) -> None:
        async def work() -> None:
            async with await Runtime.connect(self.containerd.socket) as runtime:
                (row,) = [row for row in await listed(runtime) if row.artifact == artifact]
                await ImageStager(runtime).release(row.artifact)

        asyncio.run(work())

    def listed(self) -> Sequence[ShelfRow]:
        async def work() -> Sequence[ShelfRow]:
            async with await Runtime.connect(self.containerd.socket) as runtime:
                return await listed(runtime)

        return asyncio.run(work())

    def pull(self, name: str, login: tuple[str, str] | None = None, *, timeout_s: float = 60.0) -> str:
        return asyncio.run(self.containerd.kubelet().pull(name, login, timeout_s=timeout_s))

    def inventory(self) -> dict[str, list[str]]:
        """Everything in containerd, by kind, after a garbage collection."""

        async def work() -> dict[str, list[str]]:
            async with await Runtime.connect(self.containerd.socket) as runtime:
                await runtime.leases.collect()
                return {
                    "leases": sorted([lease.id for lease in await runtime.leases.all()]),
                    "blobs": sorted([one.digest async for one in runtime.content.all()]),
                    "ingests": sorted([one.ref for one in await runtime.content.ingests()]),
                    "snapshots": sorted([f"{one.name} on {one.parent}" async for one in runtime.snapshots.all()]),
                }

        return asyncio.run(work())

    def tree(self, image: Image) -> list[list[Row]]:
        return asyncio.run(self.containerd.kubelet().tree(image.top))

    def clean(self) -> None:
        """As if nothing had ever been pulled or staged."""

        async def work() -> None:
            kubelet = self.containerd.kubelet()
            for one in await kubelet.images():
                await kubelet.remove(one.id)
            async with await Runtime.connect(self.containerd.socket) as runtime:
                for lease in await runtime.leases.all():
                    await runtime.leases.delete(lease.id, collect=True)
                await runtime.leases.collect()

        asyncio.run(work())
