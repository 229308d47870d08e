"""What a publish of a warm artifact costs, and that a thousand of them leave nothing: a real agent, real mounts, no Kubernetes.

    python -m nodes.publishes [CYCLES]     cacher, daemonset and tests on PYTHONPATH; root

Not in it: the kubelet's call over gRPC and the review of the pod's token. Mounts are in a mount namespace of their own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agents import Agent

from prestage.api.annotations import Layout
from prestage.api.brokerage import GrantedMount, MountsAnswer, PodIdentity
from prestage.node.csi.agent_client import AgentClient
from prestage.node.csi.asking import Asked
from prestage.node.csi.mountinfo import mount_table
from prestage.node.csi.publishing import Publisher
from prestage.node.csi.waiting import Stagings

PUBLISHES = 100
FILES = (200, 1000)
_INSIDE = "PRESTAGE_PUBLISHES_INSIDE"


class Granted:
    """Everybody may have it."""

    def __init__(self, artifact: str) -> None:
        self._artifact = artifact

    async def authorise(self, asked: Asked) -> MountsAnswer:
        granted = GrantedMount(alias="m", artifact=self._artifact, rule="-", repo="org/many", revision="main")
        return MountsAnswer(models=[granted], fresh_until=0.0, valid_until=0.0)


def load() -> str:
    return f"load {Path('/proc/loadavg').read_text().split()[0]}"


def said(what: str, seconds: Sequence[float]) -> None:
    """The first apart: it may find nothing composed."""
    first, *rest = [one * 1000 for one in seconds]
    p99 = sorted(rest)[len(rest) * 99 // 100]
    print(f"{what}: first {first:.1f} ms, then median {statistics.median(rest):.1f} ms, p99 {p99:.1f} ms; {load()}", flush=True)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only how many


async def cycle(publisher: Publisher, folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each publish and of each unpublish, each for another pod."""
    came, went = [], []
    for number in range(count):
        pod = PodIdentity(namespace="n", name=f"p{number}", uid=f"uid-{number}", service_account="default")
        asked, target = Asked(pod, (), Layout.DIRECTORY, "/models", None), folder / "pods" / pod.uid / "mount"
        began = time.perf_counter()
        await publisher.publish(target, asked, asyncio.get_running_loop().time() + 100)
        came.append(time.perf_counter() - began)
        began = time.perf_counter()
        await publisher.unpublish(target)
        went.append(time.perf_counter() - began)
    return came, went


async def measure(agent: Agent, folder: Path, cycles: int) -> None:
    async with AgentClient(agent.socket) as client:
        publishers = {}
        for files in FILES:
            source = folder / f"source-{files}"
            source.mkdir()
            for number in range(files):
                (source / f"{number}.bin").write_bytes(os.urandom(100))
            began = time.perf_counter()
            artifact = agent.stage(f"file://{source}/")["artifact"]
            print(f"stage of {files} files of 100 bytes: {time.perf_counter() - began:.1f} s; {load()}", flush=True)
            publishers[files] = Publisher(client, Granted(artifact), Stagings(client))
        for files, publisher in publishers.items():
            came, went = await cycle(publisher, folder, PUBLISHES)
            said(f"publish of {files} files", came)
            said(f"unpublish of {files} files", went)
        mounts, files_then = len(mount_table()), descriptors(agent.pid)
        began = time.perf_counter()
        await cycle(publishers[FILES[0]], folder, cycles)
        print(f"{cycles} cycles: {time.perf_counter() - began:.1f} s; {load()}", flush=True)
        assert len(mount_table()) == mounts
        assert await client.trees() == []
        assert list((agent.root / "mounts").iterdir()) == []
        assert not any(path.name.startswith("mount-") for path in (agent.root / "holds").rglob("*.json"))
        assert descriptors(agent.pid) <= files_then + 4


def main() -> None:
    if _INSIDE not in os.environ:
        again = [sys.executable, "-m", "nodes.publishes", *sys.argv[1:]]
        os.execvpe("unshare", ["unshare", "--mount", "--propagation", "private", *again], {**os.environ, _INSIDE: "1"})
    folder = Path(tempfile.mkdtemp(prefix="prestage-publishes-"))
    try:
        with Agent(folder / "store", "--listen", "none") as agent:
            asyncio.run(measure(agent, folder, int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
