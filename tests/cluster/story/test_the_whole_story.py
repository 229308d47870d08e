"""One label on a namespace, one annotation on a pod: the model is staged on the node, mounted, read; the next pod starts warm."""

from __future__ import annotations

import json
import subprocess

import pytest
from click.testing import CliRunner, Result
from story import REF, Story, deployment

from cluster.installed import CHART, IMAGE
from cluster.rights import Right, stated
from prestage.bench.cli import bench
from prestage.kubectl.cli import kubectl_prestage

NOT_IN_THIS_STORY = {
    Right("admission", "create", "", "configmaps"): "asked for when a patch applies what is not there: the audit says patch",
    Right("admission", "patch", "", "pods"): "gates are taken off by admission while no planner leads",
    Right("admission", "update", "", "secrets"): "its certificate is rotated",
    Right("broker", "create", "", "configmaps"): "as for admission",
    Right("broker", "read", "", "nodes"): "a node's labels say which mirrors it has: there is none",
    Right("broker", "read", "coordination.k8s.io", "leases"): "another replica resolves the same ref just now",
    Right("broker", "update", "", "secrets"): "as for admission",
    Right("broker", "update", "prestage.dev", "artifacts"): "a second ref of an artifact leaves its trace on the object",
    Right("node", "patch", "", "nodes"): "its Node came without the startup taint",
    Right("node", "read", "prestage.dev", "storepools"): "the same",
    Right("planner", "create", "prestage.dev", "nodecaches"): "as for admission",
    Right("planner", "delete", "prestage.dev", "nodecaches"): "a node goes",
    Right("planner", "patch", "events.k8s.io", "events"): "an event comes again",
    Right("planner", "patch", "prestage.dev", "stagedmodels/status"): "there is no StagedModel",
    Right("planner", "patch", "prestage.dev", "stagingschedules/status"): "there is no StagingSchedule",
    Right("planner", "update", "", "configmaps"): "nothing new may be decided after its log was first written",
}

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node", "helm", "versitygw")]


def prestage(story: Story, *words: str) -> Result:
    return CliRunner().invoke(kubectl_prestage, [*words, "--kubeconfig", str(story.cluster.api.kubeconfig)])


@pytest.fixture(scope="module")
def chat(story: Story) -> Story:
    """A Deployment that is up, cold."""
    story.cluster.kubectl("apply", "-f", "-", stdin=deployment("chat"))
    story.available("chat")
    return story


def test_a_pod_reads_the_weights_as_they_are_at_the_origin_and_cannot_change_them(chat: Story) -> None:
    [pod] = chat.pods("chat")
    said = chat.answer(pod)
    assert said == {"sums": chat.sums, "uid": 1000, "wrote": "Read-only file system"}


def test_the_pod_says_that_it_is_warm_and_the_template_is_as_it_was_written(chat: Story) -> None:
    chat.cluster.kubectl("wait", "pod", "-n", "demo", "-l", "app=chat", "--for=condition=prestage.dev/Warm", "--timeout=120s")
    written = json.loads(chat.cluster.kubectl("get", "deployment", "chat", "-n", "demo", "-o", "json"))
    assert "volumes" not in written["spec"]["template"]["spec"]


def test_the_tables_show_the_warm_model_that_is_wanted(chat: Story) -> None:
    models = json.loads(prestage(chat, "models", "-n", "demo", "--json").stdout)
    [model] = [model for model in models if model["source"] == REF]  # those of pods before us may be kept
    assert (model["warm"], model["wanted"]) == (1, 1)

    def agree() -> bool:
        """Over all namespaces: the examples have one of their own."""
        [node] = json.loads(prestage(chat, "nodes", "--json").stdout)
        rows = json.loads(prestage(chat, "models", "-A", "--json").stdout)
        warm = {row["artifact"] for row in rows if row["kind"] != "Image" and row["warm"]}
        return (node["ready"], node["warm"], node["failed"]) == ("True", len(warm), 0)

    chat.told(agree, "nodes and models say the same of what is warm")
    told = json.loads(prestage(chat, "status", "-n", "demo", "--json").stdout)
    assert [(row["models"], row["warm"]) for row in told["pods"]] == [("llama", "True")]
    assert all(part["ready"] == part["wanted"] for part in told["parts"])
    assert prestage(chat, "doctor").exit_code == 0


def test_why_a_model_is_here_is_told_from_the_planners_log(chat: Story) -> None:
    [node] = chat.cluster.nodes

    def told(*what: str) -> str:
        done = prestage(chat, "why", *what, "-n", "demo")
        assert done.exit_code == 0, done.output
        return done.stdout

    chat.cluster.api.processes.wait_for(lambda: "for Deployment/chat" in told("llama"), what="the planner wrote its log")
    assert f"it is on {node.name}, whose plan wants it there since 20" in told("model/llama")
    assert f"demo: {REF}): it is on {node.name}" in told(f"node/{node.name}")
    assert "warm on" in told(str(chat.pods("chat")[0]["metadata"]["name"]))


def test_the_clusters_own_roles_reach_our_kinds_and_nobody_writes_an_artifact(chat: Story) -> None:
    cluster = chat.cluster

    def may(role: str, verb: str, kind: str) -> bool:
        asked = ("auth", "can-i", verb, f"{kind}.prestage.dev", "-n", "demo", f"--as={role}-user")
        return cluster.api.try_kubectl(*asked).stdout.strip() == "yes"

    for role in ("view", "edit", "admin"):
        cluster.kubectl("create", "rolebinding", role, "-n", "demo", f"--clusterrole={role}", f"--user={role}-user")
    cluster.api.processes.wait_for(lambda: may("admin", "create", "stagedmodelgrants"), what="the roles are summed up")
    assert may("view", "list", "artifacts")
    assert may("edit", "create", "stagedmodels")
    assert not may("view", "create", "stagedmodels")
    assert not may("edit", "create", "stagedmodelgrants")
    assert not any(may("admin", verb, "artifacts") for verb in ("create", "update", "patch", "delete"))


def test_the_next_pod_starts_warm_while_the_origin_is_down(chat: Story) -> None:
    chat.origin.program.pause()
    try:
        chat.cluster.kubectl("scale", "deployment/chat", "-n", "demo", "--replicas=2")
        seconds = chat.available("chat", timeout_s=120)
    finally:
        chat.origin.program.resume()
    pods = chat.pods("chat")
    assert [chat.answer(pod)["sums"] for pod in pods] == [chat.sums, chat.sums]
    volume = next(one for one in pods[1]["spec"]["volumes"] if one["name"] == "prestage-models")
    assert volume["csi"]["volumeAttributes"]["artifact.prestage.dev/llama"].startswith("sha256:")
    assert "schedulingGates" not in pods[1]["spec"]
    assert seconds < 45.0


def test_the_bench_says_what_the_model_adds_to_a_pods_start_and_leaves_none(chat: Story) -> None:
    words = ["pod", "-n", "demo", "--model", f"llama={REF}", "--annotation", "prestage.dev/credentials=s3", "--rounds", "2"]
    words += ["--image", f"{IMAGE}:test", "--pull-policy", "Never", "--command", "python3 -c 'import time; time.sleep(3600)'"]
    words += ["--kubeconfig", str(chat.cluster.api.kubeconfig), "--json"]
    done = CliRunner().invoke(bench, words, catch_exceptions=False)
    document = json.loads(done.stdout)
    assert [sample["round"] for sample in document["samples"]] == [0, 0, 1, 1]
    assert document["with_model"]["median"] > document["bound_s"]["with_model"]["median"] > 0
    assert chat.cluster.kubectl("get", "pods", "-n", "demo", "-l", "bench.prestage.dev/run", "-o", "name") == ""
    print(f"a pod with a warm model: {document['more']['median']:+.2f} s, {document['more']['values']}")


def test_an_upgrade_and_a_rollback_keep_mounts_and_warmth_and_a_pod_in_the_middle_starts(chat: Story) -> None:
    """The origin is frozen: not a byte is fetched again."""
    [before] = json.loads(prestage(chat, "nodes", "--json").stdout)
    change = ("--reuse-values", "--set-string", "node.podAnnotations.upgraded=yes,control.podAnnotations.upgraded=yes")
    chat.origin.program.pause()
    try:
        for words, replicas in ((("upgrade", "prestage", CHART, *change), 3), (("rollback", "prestage", "1"), 4)):
            chat.installed.helm(*words)
            chat.cluster.kubectl("scale", "deployment/chat", "-n", "demo", f"--replicas={replicas}")
            chat.available("chat", timeout_s=120)
            chat.installed.all_ready()
            pods = chat.pods("chat")
            assert [chat.answer(pod)["sums"] for pod in pods] == [chat.sums] * replicas
            assert all(status["restartCount"] == 0 for pod in pods for status in pod["status"]["containerStatuses"])
    finally:
        chat.origin.program.resume()
    [node] = json.loads(prestage(chat, "nodes", "--json").stdout)
    assert (node["ready"], node["warm"]) == ("True", before["warm"])


def test_every_right_that_is_used_was_given_and_what_was_given_is_used(chat: Story, request: pytest.FixtureRequest) -> None:
    done, refused = chat.audit.seen()
    assert refused == set()
    given = {right for right in stated() if right.part != "uninstall"}
    assert done - given == set()
    if request.config.getoption("lf"):
        return  # of a part of the story: that uses a part of the rights
    unused = {right.power for right in given} - {right.power for right in done}
    assert sorted(unused - set(NOT_IN_THIS_STORY)) == []
    assert sorted(set(NOT_IN_THIS_STORY) - {right.power for right in given}) == [], "these are not given: take them off the list"


def test_an_uninstall_is_refused_while_models_are_mounted_and_then_leaves_the_kinds_and_the_store(chat: Story) -> None:
    refused = chat.installed.try_helm("uninstall", "prestage", "--timeout", "60s")
    assert refused.returncode != 0
    assert "prestage-node" in chat.cluster.kubectl("get", "daemonset", "-n", "prestage", "-o", "name")
    chat.cluster.kubectl("delete", "deployment", "chat", "-n", "demo", "--timeout=120s")
    chat.cluster.kubectl("wait", "pod", "-n", "demo", "-l", "app=chat", "--for=delete", "--timeout=120s")
    [node] = chat.cluster.nodes
    mounts = subprocess.run(
        node.enter("/bin/cat", "/proc/self/mountinfo"), capture_output=True, text=True, timeout=30, check=True
    )
    assert "kubernetes.io~csi" not in mounts.stdout
    chat.installed.helm("uninstall", "prestage", "--wait", "--timeout", "90s")
    assert chat.cluster.kubectl("get", "nodecaches", "-o", "name")
    assert "prestage" not in chat.cluster.kubectl(
        "get", "csidriver,mutatingwebhookconfiguration,clusterrole", "-o", "name"
    ).split("/")
    views = subprocess.run(
        node.enter("/bin/ls", "/mnt/prestage/store/views"), capture_output=True, text=True, timeout=30, check=True
    )
    assert views.stdout.split()
