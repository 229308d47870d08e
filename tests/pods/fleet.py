"""How long one look at very many gated pods takes: `PYTHONPATH=tests python -m pods.fleet`."""

from __future__ import annotations

import time
from collections.abc import Callable

from pods.objects import GATE, artifact, node, node_cache, pod
from pods.worlds import put, world
from prestage.control.gates.loop import Gates
from prestage.control.gates.world import World
from prestage.control.warmth.condition import Memory, told
from prestage.kube.ports import Object
from prestage.kube.testing import FakeApi


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def waiting(template: int, replica: int) -> Object:
    """One gated pod of a Job that its artifact is recorded for."""
    asked = {"model.prestage.dev/llama": f"hf://org/m{template}@main"}
    made = pod(asked, name=f"p{template}-{replica}", gpus=1, spec={"schedulingGates": [GATE]})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": f"job{template}", "controller": True}
    head = made["metadata"]
    assert isinstance(head, dict)
    return {**made, "metadata": {**head, "ownerReferences": [owner]}}


def gated_fleet(*, nodes: int, templates: int, replicas: int) -> World:
    """Nodes of eight accelerators with empty stores; all pods gated, their models resolved."""
    names = [f"n{number}" for number in range(nodes)]
    objects = [node(name, gpus=8) for name in names] + [node_cache(name, {}) for name in names]
    for template in range(templates):
        objects.append(artifact(digest(template), uid=f"job{template}", ref=f"hf://org/m{template}@main"))
    pods = [waiting(template, replica) for template in range(templates) for replica in range(replicas)]
    return world(*objects, *pods)


def cpu_s(look: Callable[[], object]) -> float:
    """The least of three."""
    found = []
    for _ in range(3):
        began_s = time.process_time()
        look()
        found.append(time.process_time() - began_s)
    return min(found)


def main(nodes: int = 500, templates: int = 200, replicas: int = 10) -> None:
    there = gated_fleet(nodes=nodes, templates=templates, replicas=replicas)
    gates = Gates(FakeApi(), there)
    print(f"{nodes} nodes, {templates * replicas} gated pods of {templates} templates, seconds of CPU a look")
    print(f"all stay gated   {cpu_s(gates.steps):.3f}")

    def words() -> None:
        memory = Memory()
        for key in there.asking:
            found = there.pod(key)
            assert found is not None
            told(found, there, memory=memory)

    print(f"what all are told {cpu_s(words):.3f}")
    touched = there.touched()
    put(there, node_cache("n0", {digest(0): "Warm"}))
    concerned = touched.take()
    assert concerned is not None
    print(f"one model warm   {cpu_s(lambda: gates.steps(concerned)):.4f}, {len(concerned)} pods concerned")
    for template in range(templates):
        put(there, node_cache(f"n{template}", {digest(template): "Warm"}))
    print(f"all are released {cpu_s(gates.steps):.3f}")


if __name__ == "__main__":
    main()
