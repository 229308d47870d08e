"""`prestage bench pod` over a cluster in memory: what known pods come to, what is left of them, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest
from rich.console import Console

from prestage.bench.pod import WITH, WITHOUT, PodJob, PodResult, annotations_of, pod_table
from prestage.bench.pod_run import measure, pod_of, stand_of
from prestage.cacher.errors import Misconfigured, Unavailable
from prestage.kube.ports import EVERYTHING, Object, Resource, metadata_of, name_of
from prestage.kube.resources import PODS
from prestage.kube.testing import FakeApi

ASKED = annotations_of(["llama=hf://org/name@main"], ["prestage.dev/credentials=hf-token"])
JOB = PodJob("demo", ASKED, "busybox", rounds=3, start_s=2.0, stage_s=2.0)


class Cluster(FakeApi):
    """Admission, scheduler and kubelet in one: a pod runs `delay_s` after it is made, the later the more models it has."""

    def __init__(self, *, admits: bool = True, runs: bool = True, phase: str = "Running") -> None:
        super().__init__()
        self.admits, self.runs, self.phase = admits, runs, phase
        self.made: list[Object] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        has_model = bool(metadata_of(body).get("annotations"))
        if has_model and self.admits:
            spec = body["spec"]
            assert isinstance(spec, Mapping)
            body = {**body, "spec": {**spec, "volumes": [{"name": "prestage-models"}]}}
        made = await super().create(resource, body, namespace=namespace, name=name, subresource=subresource)
        self.made.append(made)
        self._tasks.append(asyncio.create_task(self._start(name_of(made), 0.06 if has_model else 0.02)))
        return made

    async def _start(self, name: str, delay_s: float) -> None:
        await self.patch(PODS, name, {"spec": {"nodeName": "n1"}}, namespace="demo")
        if not self.runs:
            waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
            ready = {"type": "Ready", "status": "False", "message": "llama: Staging 41 %"}
            status = {"phase": "Pending", "containerStatuses": [waiting], "conditions": [ready]}
            await self.patch(PODS, name, {"status": status}, namespace="demo", subresource="status")
            return
        await asyncio.sleep(delay_s)
        state = (
            {"running": {}}
            if self.phase == "Running"
            else {"terminated": {"exitCode": 128, "reason": "StartError", "message": "sleep: not found"}}
        )
        status = {"phase": self.phase, "containerStatuses": [{"state": state}]}
        await self.patch(PODS, name, {"status": status}, namespace="demo", subresource="status")


def measured(cluster: Cluster) -> PodResult:
    async def it() -> PodResult:
        try:
            return await measure(cluster, JOB, lambda line: None)
        finally:
            left = await cluster.page(PODS, EVERYTHING)
            assert left.items == ()

    return asyncio.run(it())


def test_pods_alternate_on_the_node_of_the_first_one_and_none_is_left() -> None:
    cluster = Cluster()
    result = measured(cluster)
    assert (result.node, len(result.samples), len(cluster.made)) == ("n1", 6, 7)
    assert result.more_s.median > 0.01
    pinned = [json.dumps(pod["spec"]).count('"n1"') for pod in cluster.made]
    assert pinned == [0, 1, 1, 1, 1, 1, 1]
    document = json.loads(json.dumps(result.to_json()))
    assert {sample["variant"] for sample in document["samples"]} == {WITH, WITHOUT}
    assert document["more"]["met"] is True
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(pod_table(result))
    console.file.close()
    assert "goal 0.5 s: met" in console.export_text()


def test_a_namespace_that_does_not_take_part_is_said_at_once() -> None:
    with pytest.raises(Misconfigured, match=r"got no volume.*kubectl prestage enable demo"):
        measured(Cluster(admits=False))


def test_a_pod_that_does_not_run_says_what_it_waits_for() -> None:
    with pytest.raises(Unavailable, match=r"Staging 41 %.*kubectl prestage why -n demo"):
        measured(Cluster(runs=False))


def test_a_pod_that_ends_is_no_pod_that_runs() -> None:
    with pytest.raises(Misconfigured, match="ended by itself: StartError: sleep: not found"):
        measured(Cluster(phase="Failed"))


@pytest.mark.parametrize("words", [(["llama"], []), (["llama=file:///x"], []), (["a=hf://o/n"], ["prestage.dev/wait=Never"])])
def test_mistakes_are_admissions(words: tuple[list[str], list[str]]) -> None:
    with pytest.raises(Misconfigured):
        annotations_of(*words)


def test_the_pod_without_the_model_is_the_same_less_the_annotations() -> None:
    ours, plain = (pod_of(JOB, "p", "r", variant=variant, node="n1") for variant in (WITH, WITHOUT))
    assert metadata_of(ours)["annotations"] == ASKED
    assert metadata_of(plain)["annotations"] == {}
    assert ours["spec"] == plain["spec"]


def test_a_pod_that_says_nothing_stands_nowhere() -> None:
    stand = stand_of({})
    assert (stand.node, stand.is_running, stand.is_over) == ("", False, False)
