"""Many volumes come and go: nothing is left of them, and a warm one costs little."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

from prestage.node.csi.mountinfo import mount_table

from .conftest import World, tokens

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes", "mount", "root")]
REF = "hf://org/many@main"
CYCLES = 100
FILES = 200


def taken(pid: int) -> tuple[int, int]:
    """Descriptors and threads of a process."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - only how many


def below(folder: Path) -> list[str]:
    """Where something is mounted there: other tests mount beside us."""
    return [mount.target for mount in mount_table() if mount.target.startswith(f"{folder}/")]


def test_a_hundred_publishes_leave_nothing(world: World) -> None:
    model = world.broker.put("many", {f"part/{number}.bin": os.urandom(100) for number in range(FILES)})
    world.broker.grant(world.pods.namespace, REF, model)
    uid = world.pods.make("many")
    context = world.pods.context("many", uid, {"model.prestage.dev/m": REF, "artifact.prestage.dev/m": model.artifact})
    token, target = tokens(world.pods.token("many", uid)), world.pods.target(uid)
    world.staged(model)
    world.driver.publish(target, context, secrets=token, timeout_s=60)
    world.driver.unpublish(target)
    processes = [part.process.pid for part in (world.parts.csi, world.parts.agent) if part.process is not None]
    mounts = below(world.pods.kubelet)
    seconds, before = [], [taken(pid) for pid in processes]
    for _ in range(CYCLES):
        began = time.perf_counter()
        world.driver.publish(target, context, secrets=token)
        seconds.append(time.perf_counter() - began)
        world.driver.unpublish(target)
    after = [taken(pid) for pid in processes]
    assert below(world.pods.kubelet) == mounts
    assert world.trees() == []
    holds = [path for path in (world.parts.root / "holds").rglob("*.json") if path.name.startswith("mount-")]
    assert holds == []
    assert list((world.parts.root / "mounts").iterdir()) == []
    for (files, threads), (files_then, threads_then) in zip(after, before, strict=True):
        assert files <= files_then + 4
        assert threads <= threads_then + 8  # a pool of gRPC's that is not full at first
    assert not target.exists()
    said = f"publish of {FILES} files, {CYCLES} times: median {statistics.median(seconds) * 1000:.1f} ms, "
    said += (
        f"90th percentile {sorted(seconds)[CYCLES * 9 // 10] * 1000:.1f} ms, load {Path('/proc/loadavg').read_text().split()[0]}"
    )
    print(said)
