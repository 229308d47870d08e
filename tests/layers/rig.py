"""A registry that obeys, and what fetches layers from it: into memory, or into files."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from layers import Made, Tar, image
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.retry import RetryRules
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from prestage.images.arriving import Arrived, ignored
from prestage.images.containerd.placing import Unnamed
from prestage.images.descriptors import Descriptor, Platform
from prestage.images.fetching import LayerFetcher
from prestage.images.image import Image
from prestage.images.incoming import Incoming, Wanted
from prestage.images.logins import Login
from prestage.images.names import parse_oci
from prestage.images.registry import Registry
from servers import faults
from servers.answers import Request
from servers.hostile import Hostile

QUICK = Limits(connections_start=4, connections_max=4, backoff_base_s=0.01, backoff_cap_s=0.05, hedge_after_s=0.3)
MIB = 1 << 20


@cache
def made() -> Made:
    """Two layers: one of two pieces, and a little one."""
    draw = random.Random(11)
    tars = [Tar().file("large", draw.randbytes(18 * MIB)).end(), Tar().file("little", draw.randbytes(3 * MIB)).end()]
    return image([(tar, "none") for tar in tars])


@dataclass
class Rig:
    """A registry that obeys, and what fetches from it."""

    server: Hostile
    client: HttpClient
    login: Login | None = None
    limits: Limits = QUICK
    received_bytes: int = 0
    blobs: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.server.put("/v2/app/manifests/v1", made().top)
        for digest, data in made().blobs.items():
            self.server.put(f"/v2/app/blobs/{digest}", data)
        self.blobs = {f"/v2/app/blobs/{digest}" for digest in made().layers}

    def on_layers(self, *script: faults.Fault, always: faults.Fault | None = None) -> None:
        """Faults for GETs of layers' bytes, one each in order; lookups of one byte stay proper."""
        left = list(script)

        def choose(request: Request) -> faults.Fault | None:
            if not self.is_layer(request):
                return None
            return left.pop(0) if left else always

        self.server.choose = choose

    def is_layer(self, request: Request) -> bool:
        return request.method == "GET" and request.path in self.blobs and request.range != (0, 1)

    def resolve(self) -> tuple[Registry, Image]:
        host = self.server.url("").removeprefix("http://")
        asker = Asker(self.client, RetryRules(budget_s=5))
        registry = Registry(parse_oci(f"oci://{host}/app:v1"), asker, self.login)
        return registry, registry.resolve(Platform("linux", "amd64"))

    def fetch(self, offset: int = 0, arrived: Arrived = ignored) -> list[bytes]:
        """All layers, the first one from `offset` on."""
        registry, resolved = self.resolve()
        found: list[bytes] = []

        async def work(engine: Engine) -> None:
            fetcher = LayerFetcher(engine, self.client, registry)
            wanted = [Wanted(blob, 0 if number else offset) for number, blob in enumerate(resolved.blobs)]
            async with fetcher.fetch(wanted, arrived) as incoming:
                for one in wanted:
                    found.append(await self._all(incoming, one))
                self.received_bytes = incoming.received_bytes

        with Engine(self.limits) as engine:
            asyncio.run(work(engine))
        return found  # not through asyncio.run, which would write out 40 MB for a message that nobody reads

    def land(self, folder: Path, arrived: Arrived = ignored) -> list[bytes]:
        """All layers, through files in `folder`."""
        registry, resolved = self.resolve()

        found: list[bytes] = []

        async def work(engine: Engine) -> None:
            fetcher = LayerFetcher(engine, self.client, registry)
            async with fetcher.land(resolved.blobs, file_in(folder), arrived) as landing:
                for blob in resolved.blobs:
                    data = memoryview(bytearray(blob.size_bytes + 1))
                    found.append(bytes(data[: (await landing.whole(blob)).read(data, 0)]))
                    landing.done(blob)
                self.received_bytes = landing.received_bytes

        with Engine(self.limits) as engine:
            asyncio.run(work(engine))
        return found

    async def _all(self, incoming: Incoming, one: Wanted) -> bytes:
        found = bytearray()
        while one.offset + len(found) < one.blob.size_bytes:
            found += await incoming.read(one.blob, one.offset + len(found), MIB)
        incoming.passed(one.blob)
        return bytes(found)


def file_in(folder: Path) -> Callable[[Descriptor], Unnamed]:
    return lambda blob: Unnamed(folder, blob.size_bytes)


def locked(server: Hostile, is_open: Callable[[Request], bool] = lambda _: False) -> Callable[[Request], faults.Fault | None]:
    """A registry that gives anybody a token, another one each time, which opens nothing but `is_open`: as Docker Hub does."""
    given = itertools.count()

    def choose(request: Request) -> faults.Fault | None:
        if request.path == "/token":
            return faults.Status(200, body=json.dumps({"token": f"t{next(given)}"}).encode())
        challenge = f'Bearer realm="{server.url("/token")}",service="hostile",error="insufficient_scope"'
        return None if is_open(request) else faults.Status(401, headers=(("WWW-Authenticate", challenge),))

    return choose
