"""A fleet as mirrors hold it, large enough to time a plan: nodes with a store, Deployments with pods that run or wait."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from planning.objects import (
    OURS,
    Mirrored,
    artifact,
    digest,
    head,
    line,
    namespace,
    node,
    pod,
    replica_set,
    template,
)

from prestage.control.planning import interpreter
from prestage.control.planning.seeing import Seeing, Sight
from prestage.control.planning.writing import Writes, body_of, writes
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Happening, Object, WatchEvent, name_of
from prestage.kube.resources import NODE_CACHES, PODS
from prestage.planner.apart import plan_apart
from prestage.planner.plan import Rules
from prestage.planner.plans import NodePlan, Plan

GIB = 2**30
_ZONES = ("a", "b", "c")


@dataclass(slots=True)
class Fleet:
    """`step` does what one turn of the planning loop does, but for requests."""

    mirrors: Mirrored
    seeing: Seeing = field(default_factory=Seeing)
    sent: dict[str, NodePlan] = field(default_factory=dict)
    before: Plan | None = None
    version: int = 10

    def step(self, now: float = 1e9) -> tuple[Sight, Plan, Writes]:
        """Collect, plan, compare with what was written; what is due counts as written and seen."""
        seen = self.seeing.look(self.mirrors, now, sent=self.sent)
        rules, walls = Rules(peers=False), seen.walls
        made = plan_apart(
            seen.demands, seen.nodes, seen.images, now, walls=walls, rules=rules, parts=seen.parts, before=self.before
        )
        self.before = made
        return seen, made, writes(made.nodes, seen.caches, self.sent)

    def write(self, due: Writes) -> None:
        """As the API server shows it a moment later."""
        mirror = self.mirrors[NODE_CACHES]
        for made in due.apply:
            body = cast("dict[str, object]", body_of(made))
            seen = mirror.get(made.node) or {}
            self.change(mirror, {**seen, **body, "status": seen.get("status", {})})

    def change(self, mirror: Mirror, made: Object) -> None:
        """One watch event."""
        self.version += 1
        metadata = {**cast("Mapping[str, object]", made["metadata"]), "resourceVersion": str(self.version)}
        metadata.setdefault("uid", f"{name_of(made)}-cache")
        mirror.take(WatchEvent(Happening.MODIFIED, {**made, "metadata": metadata}))

    def bind(self, number: int, to: str) -> None:
        """One waiting pod gets its node."""
        waiting = [one for one in self.mirrors[PODS] if "nodeName" not in cast("Mapping[str, object]", one["spec"])]
        one = waiting[number]
        self.change(self.mirrors[PODS], {**one, "spec": {**cast("Mapping[str, object]", one["spec"]), "nodeName": to}})


def fleet(*, nodes: int, templates: int, replicas: int, waiting: float, seed: int = 1) -> Fleet:
    """`waiting`: the share of pods without a node. Artifacts of 16 to 140 GiB, stores of 2 TiB, 8 GPUs a node."""
    chance = random.Random(seed)
    objects: list[Object] = [namespace("team")]
    names = [f"n{number:04}" for number in range(nodes)]
    for name in names:
        objects.append(node(name, gpus=8, zone=chance.choice(_ZONES)))
    warm: dict[str, set[str]] = {name: set() for name in names}
    for number in range(templates):
        web, size = f"web{number}", chance.choice([16, 28, 70, 140]) * GIB
        more: dict[str, object] = {"nodeSelector": {"zone": chance.choice(_ZONES)}} if number % 3 == 0 else {}
        said = template(gpus=1, ref=f"hf://org/m{number}@main")
        said = {**said, "spec": {**cast("dict[str, object]", said["spec"]), **more}}
        objects.append(replica_set(f"{web}-abc", web, replicas=replicas, made=said))
        objects.append(artifact(f"m{number}", line(f"{web}-uid", ref=f"hf://org/m{number}@main"), size=size))
        for replica in range(replicas):
            on = None if chance.random() < waiting else chance.choice(names)
            phase = "Running" if on is not None and chance.random() < 0.9 else "Pending"
            if on is not None and phase == "Running":
                warm[on].add(digest(f"m{number}"))
            owner = ("ReplicaSet", f"{web}-abc")
            objects.append(pod(f"{web}-{replica}", owner=owner, on=on, phase=phase, made=said, uid=f"{web}-{replica}-uid"))
    for name in names:
        held = [{"digest": one, "state": "Warm"} for one in sorted(warm[name])]
        status = {"budget": str(2048 * GIB), "originRateP10": str(GIB), "artifacts": held}
        metadata = head(name, None, uid=f"{name}-cache")
        spec = {"nodeUID": f"{name}-uid"}
        objects.append({"apiVersion": OURS, "kind": "NodeCache", "metadata": metadata, "spec": spec, "status": status})
    return Fleet(Mirrored(*objects))


def timed(fleet: Fleet) -> float:
    """Seconds of one step, carried out."""
    began_s = time.perf_counter()
    *_, due = fleet.step()
    took_s = time.perf_counter() - began_s
    fleet.write(due)
    return took_s


def main(nodes: int = 500, templates: int = 200, replicas: int = 10, waiting: float = 0.5, events: int = 100) -> None:
    """Prints how long plans take: `PYTHONPATH=tests python -m planning.fleet`."""
    interpreter.settle()
    large = fleet(nodes=nodes, templates=templates, replicas=replicas, waiting=waiting)
    print(f"first plan {timed(large):.2f} s")
    timed(large)
    took_s, written = list[float](), 0
    for number in range(events):
        large.bind(0, f"n{number % nodes:04}")
        began_s = time.process_time()
        *_, due = large.step()
        took_s.append(time.process_time() - began_s)
        written += len(due.apply)
        large.write(due)
    took_s.sort()
    print(
        f"an event, CPU: median {took_s[len(took_s) // 2]:.3f} s, p99 {took_s[int(len(took_s) * 0.99)]:.3f} s, {written} writes"
    )
    print(f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
