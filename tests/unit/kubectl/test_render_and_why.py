"""`render` without a cluster, and `why` from what can be read."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from click.testing import CliRunner
from pods.objects import DIGEST, GATE, KUEUE, LLAMA, artifact, container, node_cache, pod

from prestage.cacher.errors import Misconfigured
from prestage.control.admission.mistakes import examined
from prestage.control.admission.mutation import mutated
from prestage.kube.ports import Object
from prestage.kubectl.cli import kubectl_prestage
from prestage.kubectl.finding import Finding, Level
from prestage.kubectl.reasons import Evidence, findings
from prestage.kubectl.rendering import rendered


def deployment(annotations: dict[str, str]) -> dict[str, object]:
    spec = {"containers": [container("istio-proxy"), container("server", gpus=1)]}
    template = {"metadata": {"annotations": annotations, "labels": {"app": "chat"}}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat", "namespace": "team-a"},
        "spec": {"template": template},
    }


HUB = {"model.prestage.dev/llama": LLAMA, "prestage.dev/layout": "HuggingFace"}


def test_a_manifest_is_printed_as_admission_would_change_it_with_paths_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "deploy.yaml"
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}}
    path.write_text(yaml.safe_dump_all([service, deployment(HUB)]))
    done = CliRunner().invoke(kubectl_prestage, ["render", "-f", str(path)])
    assert done.exit_code == 0, done.output
    assert (
        "# Deployment/chat\n#   server: /models/llama is hf://org/llama@main\n#   server: HF_HUB_CACHE=/models/.hf\n"
        in done.output
    )
    [made] = yaml.safe_load_all(done.output)
    assert made["kind"] == "Pod"
    assert [one["name"] for one in made["spec"]["volumes"]] == ["prestage-models", "prestage-hf-modules"]
    assert "volumeMounts" not in made["spec"]["containers"][0]


def test_json_says_the_same_for_scripts_and_stdin_is_a_file_too() -> None:
    text = json.dumps({"kind": "List", "items": [deployment({"model.prestage.dev/a": LLAMA, "prestage.dev/layout": "Flat"})]})
    done = CliRunner().invoke(kubectl_prestage, ["render", "-f", "-", "-o", "json"], input=text)
    [one] = json.loads(done.output)
    assert (one["source"], one["paths"], one["env"]) == ("Deployment/chat", {"server": {"/models": LLAMA}}, {})


def test_mistakes_are_told_as_admission_tells_them_and_end_with_their_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "deploy.yaml"
    path.write_text(yaml.safe_dump(deployment({"model.prestage.dev/a": LLAMA, "prestage.dev/containers": "sever"})))
    done = CliRunner().invoke(kubectl_prestage, ["render", "-f", str(path)])
    assert isinstance(done.exception, Misconfigured)
    assert "refused: prestage.dev/containers: there is no container 'sever'; there are istio-proxy, server" in done.output
    path.write_text("a: [")
    assert isinstance(CliRunner().invoke(kubectl_prestage, ["render", "-f", str(path)]).exception, Misconfigured)
    path.write_text("kind: Service")
    assert "no pod and no workload" in str(CliRunner().invoke(kubectl_prestage, ["render", "-f", str(path)]).exception)


def test_a_cron_job_and_a_pod_that_asks_for_nothing_are_rendered_too() -> None:
    job = {"kind": "CronJob", "metadata": {"name": "n"}, "spec": {"jobTemplate": {"spec": deployment(HUB)["spec"]}}}
    assert [one.source for one in rendered(job)] == ["CronJob/n"]
    [plain] = rendered(pod({}))
    assert (plain.paths, plain.env) == ({}, {})


ENABLED: Object = {"metadata": {"name": "team-a", "labels": {"prestage.dev/enabled": "true"}}}


def admitted(**more: object) -> dict[str, object]:
    made = dict(mutated(pod(gpus=1), examined(pod(gpus=1))))
    return {**made, "spec": {**made["spec"], **more}}  # type: ignore[dict-item]


def said(**more: object) -> dict[str, list[tuple[Level, str]]]:
    read = {
        "namespace": ENABLED,
        "artifacts": [artifact()],
        "caches": [],
        "replica_sets": [],
        "events": [],
        "pod": admitted(),
        **more,
    }
    found: dict[str, list[tuple[Level, str]]] = {}
    for one in findings(Evidence(**read)):  # type: ignore[arg-type]
        assert isinstance(one, Finding)
        found.setdefault(one.about, []).append((one.level, one.says))
    return found


def test_a_namespace_that_did_not_opt_in_and_a_pod_without_its_volume_are_told_what_to_do() -> None:
    [(level, says)] = said(namespace={"metadata": {"name": "team-a"}})["namespace"]
    assert level is Level.ACT
    assert "kubectl label namespace team-a prestage.dev/enabled=true" in says
    assert said(pod=pod())["volume"][0][0] is Level.ACT
    assert "names no model" in said(pod=pod({}))["annotations"][0][1]
    assert said(pod=pod({"model.prestage.dev/a": LLAMA, "prestage.dev/layot": "x"}))["annotations"][0][0] is Level.ACT


def test_artifact_gate_and_nodes_are_said() -> None:
    caches = [node_cache("a", {DIGEST: "Warm"}), node_cache("b", {DIGEST: "Staging"})]
    got = said(caches=caches, pod=admitted(schedulingGates=[GATE]))
    assert got["artifact"] == [(Level.OK, f"llama: {DIGEST[:19]}, 1.0 GB")]
    assert got["gate"][0][0] is Level.WAIT
    assert {says for _, says in got["nodes"]} == {f"{DIGEST[:19]} is warm on a", f"{DIGEST[:19]} is Staging on b"}
    got = said(caches=caches, pod=admitted(schedulingGates=[KUEUE, GATE], nodeName="b"))
    assert "kueue.x-k8s.io/admission holds it back" in got["gate"][0][1]
    assert got["nodes"] == [(Level.WAIT, f"{DIGEST[:19]} is Staging on b")]
    failed = said(caches=[node_cache("a", {DIGEST: "Failed"}, code="NoCredentials")], pod=admitted(nodeName="a"))
    assert failed["nodes"] == [(Level.ACT, f"{DIGEST[:19]} failed on a (Denied, NoCredentials)")]
    assert "is not on c" in said(caches=caches, pod=admitted(nodeName="c"))["nodes"][0][1]
    assert "is the DaemonSet running" in said()["nodes"][0][1]
    assert said(artifacts=[])["artifact"][0][0] is Level.WAIT


def test_what_the_caller_may_not_read_is_said_to_be_unknown() -> None:
    got = said(artifacts=None, caches=None)
    assert got["artifact"] == [(Level.NOTE, "you may not read Artifacts here")]
    assert got["nodes"] == [(Level.NOTE, "you may not read NodeCaches")]


def test_condition_and_events_are_told_with_their_time() -> None:
    condition = {
        "type": "prestage.dev/Warm",
        "status": "False",
        "reason": "Denied",
        "message": "no access",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    events = [
        {
            "regarding": {"name": "p"},
            "eventTime": "2026-01-02T03:04:06.0Z",
            "reason": "Late",
            "note": "Late by 8 s",
            "type": "Warning",
        },
        {"regarding": {"name": "other"}, "reason": "X", "note": "y", "type": "Normal"},
    ]
    got = said(pod={**admitted(), "status": {"conditions": [condition]}}, events=events)
    assert got["condition"] == [(Level.ACT, "Denied since 2026-01-02T03:04:05Z: no access")]
    assert got["event"] == [(Level.ACT, "2026-01-02T03:04:06 Late: Late by 8 s")]
    assert said()["condition"][0][0] is Level.NOTE
