"""Pods made, watched and deleted, one at a time: what `pod.py` counts."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prestage.bench import machine
from prestage.bench.pod import WITH, WITHOUT, PodJob, PodResult, PodSample
from prestage.bench.rounds import schedule
from prestage.cacher.errors import Misconfigured, Unavailable
from prestage.kube.errors import Missing
from prestage.kube.following import Follower
from prestage.kube.mirror import Synced, Vanished
from prestage.kube.ports import Api, Object, Selection, metadata_of, name_of
from prestage.kube.resources import PODS

_LABEL = "bench.prestage.dev/run"
_GONE_S = 60.0


def pod_of(job: PodJob, name: str, run: str, *, variant: str, node: str | None) -> Object:
    """A pod that any namespace takes: no privilege, nobody's uid. `node`: by affinity, so that the scheduler still binds it."""
    container = {
        "name": "bench",
        "image": job.image,
        "imagePullPolicy": job.pull_policy,
        "command": list(job.command),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, object] = {
        "containers": [container],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": [{"operator": "Exists"}],
    }
    if node is not None:
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        spec["affinity"] = {"nodeAffinity": required}
    head = {
        "name": name,
        "namespace": job.namespace,
        "labels": {_LABEL: run},
        "annotations": dict(job.annotations) if variant == WITH else {},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": spec}


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a pod is."""

    node: str = ""
    is_running: bool = False
    trouble: str = ""
    """What it waits for, in the words of its own status."""
    is_over: bool = False


def stand_of(pod: Object) -> Stand:
    """Read a pod. Pure."""
    spec, status = _mapping(pod.get("spec")), _mapping(pod.get("status"))
    states = [_mapping(_mapping(one).get("state")) for one in _list(status.get("containerStatuses"))]
    waits = [_mapping(state.get(one)) for state in states for one in ("waiting", "terminated")]
    said = [f"{one.get('reason')}: {one.get('message', '')}".rstrip(": ") for one in waits if one.get("reason")]
    said += [f"{one.get('type')}: {one.get('message')}" for one in _list(status.get("conditions")) if one.get("message")]
    is_running = bool(states) and all("running" in state for state in states)
    return Stand(str(spec.get("nodeName") or ""), is_running, "; ".join(said), status.get("phase") in ("Failed", "Succeeded"))


async def measure(api: Api, job: PodJob, tell: Callable[[str], None]) -> PodResult:
    """All rounds. `tell` hears one line a step. Whatever happens, its pods are deleted.

    Raises:
        Misconfigured: the pod ends by itself, or has no mount although it has annotations.
        Unavailable: a pod does not run in time; says what it waits for.
        PrestageError: as the API server says.
    """
    run = secrets.token_hex(4)
    async with _watched(api, job.namespace, run) as seen:
        tell("a first pod with the model: it is brought to a node")
        first, node = await _one(api, seen, job, f"{run}-first", run, WITH, None, job.stage_s)
        tell(f"it ran on {node} after {first.running_s:.1f} s")
        samples = []
        for number, variant in schedule((WITH, WITHOUT), job.rounds, job.seed):
            name = f"{run}-{number}-{variant.replace('_', '-')}"
            sample, _ = await _one(api, seen, job, name, run, variant, node, job.start_s, number)
            tell(f"round {number + 1} of {job.rounds}: {variant.replace('_', ' ')} {sample.running_s:.2f} s")
            samples.append(sample)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return PodResult(job, machine.describe(Path.cwd()), date, node, first.running_s, tuple(samples))


class _Seen:
    """Pods of this run as a watch tells of them. On one loop."""

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.told = asyncio.Condition()
        self.synced = asyncio.Event()

    async def follow(self, follower: Follower) -> None:
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                async with self.told:
                    if isinstance(change, Synced):
                        self.synced.set()
                    elif isinstance(change, Vanished):
                        self.pods.pop(name_of(change.object), None)
                    else:
                        self.pods[name_of(change.object)] = change.object
                    self.told.notify_all()

    async def until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """False: not in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self.told:
                await self.told.wait_for(holds)
                return True
        return False

    def stand(self, name: str) -> Stand:
        return stand_of(self.pods.get(name, {}))


@asynccontextmanager
async def _watched(api: Api, namespace: str, run: str) -> AsyncIterator[_Seen]:
    seen = _Seen()
    following = asyncio.create_task(seen.follow(Follower(api, PODS, Selection(namespace, labels=f"{_LABEL}={run}"))))
    try:
        await seen.synced.wait()
        yield seen
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        page = await api.page(PODS, Selection(namespace, labels=f"{_LABEL}={run}"))
        for pod in page.items:
            with suppress(Missing):
                await api.delete(PODS, name_of(pod), namespace=namespace, grace_s=0)


async def _one(
    api: Api,
    seen: _Seen,
    job: PodJob,
    name: str,
    run: str,
    variant: str,
    node: str | None,
    timeout_s: float,
    number: int = -1,
) -> tuple[PodSample, str]:
    clock = asyncio.get_running_loop().time
    began_s = clock()
    made = await api.create(PODS, pod_of(job, name, run, variant=variant, node=node), namespace=job.namespace)
    if variant == WITH and not _mapping(made.get("spec")).get("volumes") and metadata_of(made).get("annotations"):
        raise Misconfigured(
            f"pod {name} got no volume: nobody read its annotations",
            hint=f"kubectl prestage enable {job.namespace} -o yaml | kubectl apply --server-side -f -",
        )
    await _awaited(seen, job, name, lambda: bool(seen.stand(name).node), began_s + timeout_s)
    bound_s = clock() - began_s
    await _awaited(seen, job, name, lambda: seen.stand(name).is_running, began_s + timeout_s)
    running_s = clock() - began_s
    where = seen.stand(name).node
    await api.delete(PODS, name, namespace=job.namespace, grace_s=0)
    if not await seen.until(lambda: name not in seen.pods, _GONE_S):
        raise Unavailable(f"pod {name} does not go", hint=f"kubectl describe pod -n {job.namespace} {name}")
    return PodSample(number, variant, bound_s, running_s), where


async def _awaited(seen: _Seen, job: PodJob, name: str, holds: Callable[[], bool], ends_s: float) -> None:
    left_s = ends_s - asyncio.get_running_loop().time()
    hint = f"kubectl prestage why -n {job.namespace} {name}"
    if not await seen.until(lambda: holds() or seen.stand(name).is_over, left_s):
        raise Unavailable(f"pod {name} does not run: {seen.stand(name).trouble or 'it says nothing'}", hint=hint)
    if not holds():
        why = seen.stand(name).trouble.partition("; ")[0]
        raise Misconfigured(f"pod {name} ended by itself: {why}", hint="give a --command that goes on, as `sleep 3600`")


def _mapping(given: object) -> Mapping[str, object]:
    return given if isinstance(given, Mapping) else {}


def _list(given: object) -> list[Mapping[str, object]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
