"""`prestage plan --dry-run --from-cluster` on a real API server: with too few rights, with those that it names, and drawn."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from planning.real import account, digest_of, is_there, make_node, until

from cluster.apiserver import ApiServer
from prestage.kube.client import KubeApi
from prestage.kube.ports import uid_of
from prestage.kube.resources import ARTIFACTS, NAMESPACES, NODE_CACHES, NODES, STAGED_MODELS, STAGING_SCHEDULES
from prestage.kube.settings import KubeSettings

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]
OURS = "prestage.dev/v1alpha1"
MODEL = digest_of("hf://org/llama", 1)


def run(kubeconfig: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [
        str(Path(sys.executable).parent / "prestage"),
        "plan",
        "--dry-run",
        "--from-cluster",
        f"--kubeconfig={kubeconfig}",
        *words,
    ]
    environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environ, check=False)


async def declare(api: KubeApi, namespace: str) -> None:
    """A node with 1000 bytes a second, and a model of 100 kB that is to be there in 50 s: 50 s too late."""
    node = f"{namespace}-n1"
    await api.patch(NAMESPACES, namespace, {"metadata": {"labels": {"prestage.dev/enabled": "true"}}})
    made = await make_node(api, node)
    await api.patch(NODES, node, {"metadata": {"labels": {"pool": namespace}}})
    head = {"apiVersion": OURS, "kind": "NodeCache", "metadata": {"name": node}}
    await api.apply(NODE_CACHES, {**head, "spec": {"nodeUID": uid_of(made)}}, manager="test")
    status = {"budget": "1Gi", "used": "0", "originRateP10": "1000"}
    await api.apply(NODE_CACHES, {**head, "status": status}, manager="test", subresource="status")
    place = {"namespace": namespace}
    model = {"metadata": {"name": "llama", **place}, "spec": {"source": "hf://org/llama", "revision": "main"}}
    uid = uid_of(await api.create(STAGED_MODELS, {"apiVersion": OURS, "kind": "StagedModel", **model}))
    artifact = {"apiVersion": OURS, "kind": "Artifact", "metadata": {"name": MODEL.replace(":", "-"), **place}}
    spec = {"digest": MODEL, "files": 1, "size": 100_000, "encoding": "Gzip", "manifest": "AA=="}
    await api.apply(ARTIFACTS, {**artifact, "spec": spec}, manager="test")
    template = {"uid": uid, "hash": "1", "alias": "model", "ref": "ref:llama"}
    await api.apply(ARTIFACTS, {**artifact, "status": {"templates": [template]}}, manager="test", subresource="status")
    begins = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=50)
    windows = [{"name": "launch", "readyBy": begins.strftime("%Y-%m-%dT%H:%M:%SZ"), "duration": "1h"}]
    said = {
        "artifacts": [{"name": "weights", "modelRef": {"name": "llama"}}],
        "nodes": {"selector": {"matchLabels": {"pool": namespace}}, "count": 1},
        "windows": windows,
    }
    await api.create(
        STAGING_SCHEDULES, {"apiVersion": OURS, "kind": "StagingSchedule", "metadata": {"name": "day", **place}, "spec": said}
    )
    await until(lambda: is_there(api, NODE_CACHES, node))


def test_it_names_the_rights_that_are_missing_and_with_them_says_what_will_be_late(
    api_with_kinds: ApiServer, namespace: str, tmp_path: Path
) -> None:
    server = api_with_kinds

    async def steps() -> None:
        async with await KubeApi.connect(KubeSettings(kubeconfig=server.kubeconfig)) as api:
            await declare(api, namespace)

    asyncio.run(steps())
    person = account(server, tmp_path, namespace, ())
    refused = run(person)
    assert refused.returncode == 4
    assert "you may not list, in the whole cluster: pods, nodes, namespaces, deployments.apps," in refused.stderr
    found = re.search(r"`kubectl (create clusterrole [^`]+)`", refused.stderr.replace("\n", " "))
    assert found, refused.stderr
    words = shlex.split(found[1].replace("prestage-rehearsal", f"rehearsal-{namespace}"))
    server.kubectl(*words)
    server.kubectl(
        *("create", "clusterrolebinding", f"rehearsal-{namespace}", f"--clusterrole=rehearsal-{namespace}"),
        f"--serviceaccount={namespace}:planner",
    )
    picture = tmp_path / "plan.png"
    told = run(person, "--ahead=1h", f"--png={picture}", "--json")
    assert told.returncode == 1, told.stderr
    [said] = [one for one in json.loads(told.stdout)["demand"] if one["namespace"] == namespace]
    assert (said["model"], said["artifact"], said["for"]) == (
        f"{namespace}/llama",
        MODEL,
        f"stagingschedule {namespace}/day, window launch",
    )
    assert (said["outcome"], said["reason"], said["fix"]["remedy"]) == ("Late", "TooSoon", "Rate")
    assert 50 <= said["lateBySeconds"] <= 100
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(person).stdout.count(f"{namespace}/llama for stagingschedule {namespace}/day, window launch: Late") == 1
    server.kubectl("label", "namespace", namespace, "prestage.dev/enabled-")  # others plan here too
