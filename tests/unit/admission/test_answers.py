"""The webhook's answers: what passes, what is refused, and that nothing of ours keeps a pod from being made."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import cast

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from pods.objects import DIGEST, GATE, KUEUE, artifact, node, node_cache, pod
from pods.patching import patched
from pods.worlds import world

from prestage.control.admission.judgement import Answer, Judge
from prestage.control.admission.metrics import AdmissionMetrics
from prestage.control.admission.review import Question, Unreadable, asked
from prestage.control.admission.server import Webhook
from prestage.control.gates.decision import Reason
from prestage.control.gates.world import World
from prestage.kube.ports import Object

Tree = dict[str, object]


def question(seen: Object, *, dry_run: bool = False, operation: str = "CREATE", kind: str = "Pod") -> bytes:
    request = {
        "uid": "u1",
        "kind": {"kind": kind},
        "operation": operation,
        "namespace": "team-a",
        "object": seen,
        "oldObject": None,
        "dryRun": dry_run,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def response(answer: Answer | bytes) -> Tree:
    read = json.loads(answer.body if isinstance(answer, Answer) else answer)
    assert read["response"]["uid"] == "u1"
    return cast(Tree, read["response"])


def paths(answer: Answer) -> list[str]:
    patch = response(answer).get("patch")
    return [] if patch is None else [one["path"] for one in json.loads(base64.b64decode(str(patch)))]


def around(**states: str) -> World:
    caches = [node_cache(name, {DIGEST: state}) for name, state in states.items()]
    return world(*(node(name) for name in states), *caches, artifact())


def judged(there: World, seen: Object, *, dry_run: bool = False) -> Answer:
    return Judge(there).pod(asked(question(seen, dry_run=dry_run)))


def test_a_pod_that_asks_for_nothing_passes_untouched() -> None:
    answer = judged(around(a="Warm"), pod({}))
    assert (answer.kind, paths(answer)) == ("passed", [])


def test_a_warm_node_means_preference_and_no_gate() -> None:
    answer = judged(around(a="Warm"), pod(gpus=1))
    assert answer.verdict is not None
    assert answer.verdict.reason is Reason.WARM_NODE
    assert paths(answer) == ["/spec/containers/0/volumeMounts", "/spec/volumes", "/spec/affinity"]


def test_a_node_that_is_warm_soon_means_a_gate() -> None:
    answer = judged(around(a="Staging"), pod(gpus=1))
    assert "/spec/schedulingGates" in paths(answer)
    assert "/spec/affinity" not in paths(answer)


def test_while_the_mirrors_are_not_whole_a_pod_gets_its_volume_and_no_gate() -> None:
    there = world(node("a"), node_cache("a", {DIGEST: "Staging"}), artifact(), whole=False)
    answer = judged(there, pod(gpus=1))
    assert paths(answer) == ["/spec/containers/0/volumeMounts", "/spec/volumes"]


def test_called_again_it_decides_nothing_anew() -> None:
    assert judged(around(a="Warm"), pod(gpus=1, spec={"schedulingGates": [KUEUE, GATE]})).verdict is None


def test_called_again_a_pod_that_was_let_through_does_not_count_against_itself() -> None:
    caches = [node_cache(name, {DIGEST: state}) for name, state in {"a": "Warm", "b": "Staging"}.items()]
    judge = Judge(world(node("a", gpus=1), node("b", gpus=1), *caches, artifact()))
    first = judge.pod(asked(question(pod(gpus=1))))
    assert first.verdict is not None
    assert first.verdict.reason is Reason.WARM_NODE
    steps = json.loads(base64.b64decode(str(response(first)["patch"])))
    again = judge.pod(asked(question(cast(Object, patched(pod(gpus=1), steps)))))
    assert (again.kind, again.verdict) == ("passed", None)


def test_the_second_pod_of_a_burst_does_not_see_the_room_of_the_first() -> None:
    judge = Judge(around(a="Warm", b="Staging"))
    reasons = []
    for dry_run in (True, False, False):
        verdict = judge.pod(asked(question(pod(gpus=1), dry_run=dry_run))).verdict
        assert verdict is not None
        reasons.append(verdict.reason)
    assert reasons == [Reason.WARM_NODE, Reason.WARM_NODE, Reason.READY_SOON], "a dry run leaves nothing behind"


def test_a_static_pods_mirror_passes() -> None:
    annotations = {"model.prestage.dev/llama": "hf://org/llama", "kubernetes.io/config.mirror": "x"}
    assert judged(around(a="Warm"), pod(annotations)).kind == "passed"


def test_a_mistake_is_refused_with_all_that_is_wrong() -> None:
    said = response(judged(around(), pod({"prestage.dev/layot": "Flat", "model.prestage.dev/x": "ftp://x"})))
    assert said["allowed"] is False
    message = str(cast(Tree, said["status"])["message"])
    assert "model.prestage.dev/x: " in message
    assert "prestage.dev/layot: there is no such annotation; write for example" in message


def test_an_artifact_of_the_template_may_stand_in_the_attributes_and_a_foreign_one_may_not() -> None:
    def with_artifact(digest: str) -> Object:
        attributes = {"model.prestage.dev/llama": "hf://org/llama@main", "artifact.prestage.dev/llama": digest}
        return pod(
            spec={
                "volumes": [
                    {
                        "name": "prestage-models",
                        "csi": {"driver": "prestage.dev", "readOnly": True, "volumeAttributes": attributes},
                    }
                ]
            }
        )

    assert judged(around(a="Warm"), with_artifact(DIGEST)).kind == "patched"
    assert judged(around(a="Warm"), with_artifact("sha256:" + "c" * 64)).kind == "refused"


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_a_workloads_mistakes_are_told_where_it_is_made(kind: str) -> None:
    def workload(annotations: dict[str, str]) -> Object:
        template = {key: value for key, value in pod(annotations).items() if key in ("metadata", "spec")}
        below = {"spec": {"template": template}}
        return {"kind": kind, "spec": {"jobTemplate": below} if kind == "CronJob" else {"template": template}}

    judge = Judge(around())
    wrong = judge.workload(asked(question(workload({"prestage.dev/wait": "?"}), kind=kind)))
    assert "is none of Auto, Mount, None" in str(cast(Tree, response(wrong)["status"])["message"])
    assert judge.workload(asked(question(workload({"model.prestage.dev/x": "ref:x"}), kind=kind))).kind == "passed"


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.text(max_size=5), lambda inner: st.dictionaries(st.sampled_from(["request", "uid", "object"]), inner)
    ).map(lambda one: json.dumps(one).encode())
)
def test_what_is_no_review_is_unreadable_and_nothing_else(raw: bytes) -> None:
    try:
        asked(raw)
    except Unreadable:
        return
    assert b"uid" in raw


class Broken(Judge):
    """With a fault."""

    def pod(self, question: Question) -> Answer:
        raise RuntimeError("a fault of ours")


def test_a_fault_of_ours_lets_the_pod_through_and_is_counted() -> None:
    async def test() -> None:
        metrics = AdmissionMetrics()
        async with TestClient(TestServer(Webhook(Broken(around()), metrics).app)) as client:
            async with client.post("/mutate", data=question(pod())) as answer:
                assert response(await answer.read())["allowed"] is True
            async with client.post("/mutate", data=b"{") as answer:
                assert answer.status == 400
            async with client.post("/validate", data=question({"kind": "Job", "spec": {}}, kind="Job")) as answer:
                assert response(await answer.read())["allowed"] is True
        text = metrics.text().decode()
        assert 'prestage_admission_answers_total{answer="failed",path="mutate"} 1.0' in text
        assert 'prestage_admission_answers_total{answer="unreadable",path="mutate"} 1.0' in text
        assert 'prestage_admission_answers_total{answer="passed",path="validate"} 1.0' in text

    asyncio.run(asyncio.wait_for(test(), 20))


def test_one_that_ends_answers_and_closes_the_connection() -> None:
    async def closes(*, leaving: bool) -> bool:
        webhook = Webhook(Judge(around()), AdmissionMetrics(), lambda: leaving)
        async with TestClient(TestServer(webhook.app)) as client, client.post("/mutate", data=question(pod())) as answer:
            assert response(await answer.read())["allowed"] is True
            return answer.headers.get("Connection") == "close"

    async def both() -> tuple[bool, bool]:
        return await closes(leaving=False), await closes(leaving=True)

    assert asyncio.run(asyncio.wait_for(both(), 20)) == (False, True)
