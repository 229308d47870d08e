"""Many volumes come and go: nothing is left of them, and a warm one costs little, however many files it has."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from prestage.node.csi.mountinfo import mount_table
from servers.broker import Model

from .conftest import World, tokens

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes", "mount", "root")]
CYCLES = 300
"""`make volumes` does 1,000, without a kubelet's calls."""
PUBLISHES = 100


def taken(pid: int) -> tuple[int, int]:
    """Descriptors and threads of a process."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - only how many


def below(folder: Path) -> list[str]:
    """Where something is mounted there: other tests mount beside us."""
    return [mount.target for mount in mount_table() if mount.target.startswith(f"{folder}/")]


def staged(world: World, name: str, files: int) -> Model:
    model = world.broker.put(name, {f"part/{number}.bin": os.urandom(100) for number in range(files)})
    world.broker.grant(world.pods.namespace, f"hf://org/{name}@main", model)
    began = time.perf_counter()
    world.staged(model)
    print(f"stage of {files} files of 100 bytes: {time.perf_counter() - began:.1f} s, {load()}")
    return model


def load() -> str:
    return f"load {Path('/proc/loadavg').read_text().split()[0]}"


def cycle(world: World, model: Model, name: str, count: int, layout: str = "Directory") -> list[float]:
    """Seconds of each publish; each is let go of again."""
    uid = world.pods.make(name)
    ref = f"hf://org/{model.name}@main"
    attributes = {"model.prestage.dev/m": ref, "artifact.prestage.dev/m": model.artifact, "prestage.dev/layout": layout}
    context = world.pods.context(name, uid, attributes)
    token, target = tokens(world.pods.token(name, uid)), world.pods.target(uid)
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        world.driver.publish(target, context, secrets=token, timeout_s=60)
        seconds.append(time.perf_counter() - began)
        world.driver.unpublish(target)
    assert not target.exists()
    return seconds


def said(what: str, seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    median, rank = statistics.median(ordered), ordered[len(ordered) * 99 // 100]
    return f"{what}: first {seconds[0] * 1000:.1f} ms, median {median * 1000:.1f} ms, p99 {rank * 1000:.1f} ms, {load()}"


def test_publishes_leave_nothing(world: World) -> None:
    model = staged(world, "few", 20)
    cycle(world, model, "before", 2)
    processes = [part.process.pid for part in (world.parts.csi, world.parts.agent) if part.process is not None]
    mounts, before = below(world.pods.kubelet), [taken(pid) for pid in processes]
    began = time.perf_counter()
    cycle(world, model, "many", CYCLES)
    print(f"{CYCLES} cycles in {time.perf_counter() - began:.1f} s, {load()}")
    after = [taken(pid) for pid in processes]
    assert below(world.pods.kubelet) == mounts
    assert world.trees() == []
    holds = [path for path in (world.parts.root / "holds").rglob("*.json") if path.name.startswith("mount-")]
    assert holds == []
    assert list((world.parts.root / "mounts").iterdir()) == []
    assert 1 <= len(composed(world)) <= 2  # for the next one
    for (files, threads), (files_then, threads_then) in zip(after, before, strict=True):
        assert files <= files_then + 4
        assert threads <= threads_then + 8  # a pool of gRPC's that is not full at first


@pytest.mark.parametrize("files", [200, 1000])
def test_what_a_publish_of_a_warm_artifact_costs(world: World, files: int) -> None:
    """Said, not judged: the machine has other work. That the files are linked once is."""
    model = staged(world, f"model-{files}", files)
    first = cycle(world, model, f"first-{files}", 1)
    before = composed(world)
    seconds = first + cycle(world, model, f"pod-{files}", PUBLISHES)
    print(said(f"publish of {files} files, {PUBLISHES} times", seconds))
    inside = [one["seconds"] for one in world.parts.csi.events() if one["event"] == "mounted"][-PUBLISHES - 1 :]
    print(said("  of which the driver knows", inside))
    assert before.items() <= composed(world).items()


def composed(world: World) -> dict[str, int]:
    """What pods share, by name."""
    return {path.name: path.stat().st_ino for path in (world.parts.root / "trees").iterdir()}
