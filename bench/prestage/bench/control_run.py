"""Nodes, Deployments and pods made, watched and taken away again: what `control.py` counts."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from prestage.bench import control_metrics, machine
from prestage.bench.control import ControlJob, ControlResult, Phase, Steps
from prestage.bench.control_agents import StandIns
from prestage.bench.control_metrics import Said
from prestage.cacher.errors import Unavailable
from prestage.control.gates.preference import place_of
from prestage.control.podspec import entries, is_gated, node_of, part
from prestage.kube.errors import Missing
from prestage.kube.following import Follower
from prestage.kube.mirror import Synced, Vanished
from prestage.kube.ports import Api, Object, Resource, Selection, metadata_of, name_of
from prestage.kube.resources import DEPLOYMENTS, NODES, PODS

LABEL: Final = "bench.prestage.dev/run"
_TEMPLATE: Final = "bench.prestage.dev/template"
_FAKE: Final = "kwok.x-k8s.io/node"
_AT_ONCE: Final = 8


def node_of_bench(name: str, run: str) -> Object:
    """Eight accelerators, a taint that keeps others' pods away, and what kwok looks for."""
    room = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {LABEL: run, "kubernetes.io/hostname": name},
            "annotations": {_FAKE: "fake"},
        },
        "spec": {"taints": [{"key": _FAKE, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": room, "capacity": room},
    }


def deployment_of(job: ControlJob, name: str, run: str, number: int, replicas: int) -> Object:
    """Pods with one accelerator each, which only nodes of this run take."""
    labels = {LABEL: run, _TEMPLATE: name}
    container = {
        "name": "bench",
        "image": job.image,
        "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "1", "memory": "1Gi"}},
    }
    spec = {
        "containers": [container],
        "nodeSelector": {LABEL: run},
        "tolerations": [{"key": _FAKE, "operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
    }
    asked = {"model.prestage.dev/model": job.refs.format(n=number)}
    template = {"metadata": {"labels": labels, "annotations": asked}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": job.namespace, "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


@dataclass(slots=True)
class _Seen:
    """Nodes and pods of this run as watches tell of them."""

    clock: Callable[[], float]
    told: asyncio.Condition = field(default_factory=asyncio.Condition)
    ready: set[str] = field(default_factory=set)
    running_at: dict[str, float] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    released_at: dict[str, float] = field(default_factory=dict)
    template: dict[str, str] = field(default_factory=dict)

    async def follow(self, follower: Follower, take: Callable[[Object], None]) -> None:
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                if isinstance(change, Synced | Vanished):
                    continue
                take(change.object)
                async with self.told:
                    self.told.notify_all()

    def node(self, seen: Object) -> None:
        is_ready = any(
            (one.get("type"), one.get("status")) == ("Ready", "True") for one in entries(part(seen, "status"), "conditions")
        )
        if is_ready and place_of(seen) is not None:
            self.ready.add(name_of(seen))

    def pod(self, seen: Object) -> None:
        name, now_s = name_of(seen), self.clock()
        self.template[name] = str(part(metadata_of(seen), "labels").get(_TEMPLATE, ""))
        if is_gated(seen):
            self.gated.add(name)
        elif name in self.gated:
            self.released_at.setdefault(name, now_s)
        if node_of(seen) and part(seen, "status").get("phase") == "Running":
            self.running_at.setdefault(name, now_s)

    def running(self, template: str) -> list[str]:
        return [name for name in self.running_at if self.template.get(name) == template]


async def measure(api: Api, job: ControlJob, tell: Callable[[str], None]) -> ControlResult:
    """Both phases. `tell` hears one line a step. Whatever happens, what it made is deleted.

    Raises:
        Unavailable: nodes or pods do not come in time; says what to look at.
        PrestageError: as the API server says.
    """
    bench = _Bench(api, job, secrets.token_hex(3), tell)
    async with bench.watched():
        await bench.join()
        fill = await bench.fill()
        alone, steps = await bench.alone()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return ControlResult(job, machine.describe(Path.cwd()), date, fill, alone, steps)


class _Bench:
    def __init__(self, api: Api, job: ControlJob, run: str, tell: Callable[[str], None]) -> None:
        self._api, self._job, self._run, self._tell = api, job, run, tell
        self._clock = asyncio.get_running_loop().time
        self._names = [f"bench-{run}-{number:04}" for number in range(job.nodes)]
        self._seen = _Seen(self._clock)
        self._agents = StandIns(api, frozenset(self._names), stage_s=job.stage_s, clock=self._clock)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """All watches and stand-ins; in the end what was made is deleted."""
        labels, seen = f"{LABEL}={self._run}", self._seen
        works = (
            self._agents.run(),
            seen.follow(Follower(self._api, NODES, Selection(labels=labels)), seen.node),
            seen.follow(Follower(self._api, PODS, Selection(self._job.namespace, labels=labels)), seen.pod),
        )
        tasks = [asyncio.create_task(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for resource, namespace in ((DEPLOYMENTS, self._job.namespace), (PODS, self._job.namespace), (NODES, None)):
                await self._deleted(resource, Selection(namespace, labels=labels))

    async def join(self) -> None:
        """Nodes, until planner and stand-ins know all of them."""
        began_s = self._clock()
        await _at_once(self._api.create(NODES, node_of_bench(name, self._run)) for name in self._names)
        hint = "does kwok run here (--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake), and the planner?"
        await self._until(self._seen.told, lambda: len(self._seen.ready) == len(self._names), "nodes are not ready", hint)
        await self._until(
            self._agents.told, lambda: len(self._agents.reported) == len(self._names), "NodeCaches are missing", hint
        )
        self._tell(f"{len(self._names)} nodes joined after {self._clock() - began_s:.1f} s")
        await self._quiet()

    async def fill(self) -> Phase:
        """All Deployments at once."""
        job, seen = self._job, self._seen
        wanted = job.templates * job.replicas
        before, began_s = await self._said(), self._clock()
        made = (
            deployment_of(job, f"bench-{self._run}-{number}", self._run, number, job.replicas) for number in range(job.templates)
        )
        await _at_once(self._api.create(DEPLOYMENTS, one) for one in made)
        self._tell(f"{job.templates} Deployments made after {self._clock() - began_s:.1f} s")
        hint = f"kubectl get pods,events -n {job.namespace} -l {LABEL}={self._run}"
        await self._until(seen.told, lambda: len(seen.running_at) >= wanted, f"of {wanted} pods not all run", hint)
        took_s = self._clock() - began_s
        self._tell(f"{wanted} pods run after {took_s:.1f} s")
        return Phase(took_s, wanted, before, await self._quiet())

    async def alone(self) -> tuple[Phase, tuple[Steps, ...]]:
        """One Deployment after the other."""
        before, began_s = await self._said(), self._clock()
        steps = [await self._one(number) for number in range(self._job.alone)]
        took_s = self._clock() - began_s
        return Phase(took_s, len(steps), before, await self._quiet()), tuple(steps)

    async def _one(self, number: int) -> Steps:
        seen, agents, name = self._seen, self._agents, f"bench-{self._run}-alone-{number}"
        known, began_s = set(agents.planned_at), self._clock()
        await self._api.create(DEPLOYMENTS, deployment_of(self._job, name, self._run, self._job.templates + number, 1))
        hint = f"kubectl prestage status -n {self._job.namespace}"
        await self._until(seen.told, lambda: bool(seen.running(name)), f"{name} does not run", hint)
        [pod] = seen.running(name)
        [artifact] = agents.planned_at.keys() - known
        released_s = seen.released_at[pod] - agents.warm_at[artifact] if pod in seen.released_at else None
        step = Steps(agents.planned_at[artifact] - began_s, released_s, seen.running_at[pod] - began_s)
        said = "not gated" if released_s is None else f"released {released_s:.2f} s after its model was warm"
        self._tell(f"{name}: in a NodeCache after {step.node_cache_s:.2f} s, {said}, running after {step.running_s:.2f} s")
        return step

    async def _quiet(self) -> Mapping[str, Said]:
        """Once nothing is written any more; what was said then."""
        said, ends_s = await self._said(), self._clock() + self._job.patience_s
        while self._clock() < ends_s:
            await asyncio.sleep(self._job.settle_s)
            now = await self._said()
            if all(now[part].writes() == said[part].writes() for part in now):
                return now
            said = now
        raise Unavailable("somebody writes without an end", hint="compare prestage_api_requests_total of planner and broker")

    async def _said(self) -> dict[str, Said]:
        parts = self._job.parts
        pages = await asyncio.gather(*(asyncio.to_thread(control_metrics.read, url) for url in parts.values()))
        return dict(zip(parts, pages, strict=True))

    async def _until(self, told: asyncio.Condition, holds: Callable[[], bool], what: str, hint: str) -> None:
        try:
            async with asyncio.timeout(self._job.patience_s), told:
                await told.wait_for(holds)
        except TimeoutError as exc:
            raise Unavailable(f"{what} after {self._job.patience_s:.0f} s", hint=hint) from exc

    async def _deleted(self, resource: Resource, selection: Selection) -> None:
        found, rest = list[Object](), None
        while True:
            page = await self._api.page(resource, selection, limit=500, rest=rest)
            found += page.items
            if (rest := page.rest) is None:
                break
        await _at_once(self._delete(resource, name_of(one), selection.namespace) for one in found)

    async def _delete(self, resource: Resource, name: str, namespace: str | None) -> None:
        with suppress(Missing):
            await self._api.delete(resource, name, namespace=namespace, grace_s=0)


async def _at_once(works: Iterable[Awaitable[object]]) -> None:
    """Some at a time."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def limited(work: Awaitable[object]) -> None:
        async with limit:
            await work

    await asyncio.gather(*map(limited, works))
