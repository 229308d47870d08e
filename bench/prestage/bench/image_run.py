"""Pulls and stagings of one image on one containerd, in turns: what `image.py` counts."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import Message

from prestage.bench import machine
from prestage.bench.image import FIND, PULL, STAGE, ImageResult, ImageSample
from prestage.bench.rounds import schedule
from prestage.bench.throttle import throttled
from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.transfer.engine import Engine
from prestage.images.image import Image
from prestage.images.logins import Login
from prestage.images.names import ImageName, host_of
from prestage.images.opening import Means, opened
from prestage.images.runtime import Containerd
from prestage.images.stager import StagingTerms
from prestage.wire import cri_pb2 as cri

_SERVICE = "/runtime.v1.ImageService"
_PULL_S = 3600.0


@dataclass(frozen=True, slots=True)
class ImageJob:
    """What to measure."""

    name: ImageName
    socket: Path
    """Of a containerd that nobody else uses: the image is removed from it between runs."""
    scratch: Path
    login: Login | None = None
    rounds: int = 3
    seed: int = 1
    throttle: int | None = None
    in_place: bool = False
    """Stage with layers' files put into containerd's content folder."""


def measure(job: ImageJob, tell: Callable[[str], None]) -> ImageResult:
    """Run them all.

    Raises:
        Misconfigured: the image is there already, or a throttle for a registry with TLS.
        PrestageError: of whichever failed.
    """
    return asyncio.run(_measure(job, tell))


async def _measure(job: ImageJob, tell: Callable[[str], None]) -> ImageResult:
    with _in_front(job) as name:
        bench = _Bench(replace(job, name=name))
        image, version = await bench.look()
        samples: list[ImageSample] = []
        for number, what in schedule((PULL, STAGE), job.rounds, job.seed):
            for sample in await bench.run(number, what):
                tell(f"round {number + 1}: {sample.what} {sample.seconds:.2f} s")
                samples.append(sample)
    return ImageResult(
        str(job.name),
        image.size_bytes,
        len(image.layers),
        version,
        job.throttle,
        job.rounds,
        job.seed,
        datetime.now(UTC).isoformat(timespec="seconds"),
        machine.describe(job.scratch),
        tuple(samples),
    )


@contextmanager
def _in_front(job: ImageJob) -> Iterator[ImageName]:
    """The name to ask for: through the throttle where there is one."""
    if job.throttle is None:
        yield job.name
        return
    if not job.name.is_loopback:
        raise Misconfigured("only a registry on loopback can be throttled", hint="run one here, without TLS")
    host, port = host_of(job.name.registry), int(job.name.registry.rpartition(":")[2])
    with throttled(host, port, job.throttle) as front:
        yield replace(job.name, registry=f"127.0.0.1:{front}")


class _Bench:
    def __init__(self, job: ImageJob) -> None:
        self._job = job
        self._pid = _owner(job.socket)

    async def look(self) -> tuple[Image, str]:
        """What the image is, and which containerd it is; nothing of it may be there."""
        async with self._means() as (means, containerd), opened(self._job.name, means, self._job.login) as it:
            if await containerd.images.of(it.image.roots) or await containerd.snapshots.has(it.image.layers[0].chain):
                raise Misconfigured(f"{self._job.name} is there already", hint="remove it, or measure on another containerd")
            return it.image, containerd.setup.version

    async def run(self, number: int, what: str) -> list[ImageSample]:
        """One pull; or a staging and the pull that finds it. Everything is gone again when this returns."""
        async with self._means() as (means, containerd), opened(self._job.name, means, self._job.login) as it:
            try:
                if what == PULL:
                    return [await self._timed(number, PULL, lambda: self._pull(containerd))]
                staged = await self._timed(number, STAGE, lambda: it.stager.stage(it.image, it.fetcher))
                return [staged, await self._timed(number, FIND, lambda: self._pull(containerd))]
            finally:
                await self._remove(containerd)
                if what == STAGE:
                    await it.stager.release(it.image.artifact)
                await containerd.leases.collect()

    async def _timed(self, number: int, what: str, work: Callable[[], Awaitable[object]]) -> ImageSample:
        watch = machine.LoadWatch([self._pid])
        own, began = time.process_time(), time.monotonic()
        await work()
        seconds, own_s = time.monotonic() - began, time.process_time() - own
        return ImageSample(number, what, seconds, watch.server_cpu_s() + own_s, watch.foreign_cores(own_s))

    async def _pull(self, containerd: Containerd) -> None:
        login = self._job.login
        auth = cri.AuthConfig(username=login.user, password=login.password) if login else None
        request = cri.PullImageRequest(image=self._spec(), auth=auth, sandbox_config=cri.PodSandboxConfig())
        await containerd.channel.call(f"{_SERVICE}/PullImage", request, cri.PullImageAnswer, timeout_s=_PULL_S)

    async def _remove(self, containerd: Containerd) -> None:
        request: Message = cri.RemoveImageRequest(image=self._spec())
        await containerd.channel.call(f"{_SERVICE}/RemoveImage", request, cri.Empty)

    def _spec(self) -> cri.ImageSpec:
        return cri.ImageSpec(image=str(self._job.name))

    @asynccontextmanager
    async def _means(self) -> AsyncIterator[tuple[Means, Containerd]]:
        net = NetConfig.from_environ(os.environ)
        with closing(HttpClient(net)) as client, Engine() as engine:
            async with await Containerd.connect(self._job.socket) as containerd:
                yield (
                    Means(self._job.socket, engine, client, terms=StagingTerms(high_water=1.0, in_place=self._job.in_place)),
                    containerd,
                )


def _owner(path: Path) -> int:
    """The process that listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid)
