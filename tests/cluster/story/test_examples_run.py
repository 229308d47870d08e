"""The examples that need no framework do what they say; those that need one are run by hand (example_servers.py)."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Mapping

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from story import Story, uploaded
from story.examples import example

from prestage.kubectl.cli import kubectl_prestage

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server")]

SMALL_BYTES = 1 << 20


def test_each_pod_of_the_job_counts_what_the_file_says_it_holds(story: Story) -> None:
    kubectl, folder = story.cluster.kubectl, story.hub.root / "sentence-transformers" / "all-MiniLM-L6-v2"
    folder.mkdir(parents=True)
    weights = {"embeddings": np.zeros((3, 4), np.float32), "bias": np.zeros(5, np.float32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    story.hub.reload()
    kubectl("apply", "-n", "demo", "-f", "-", stdin=example("job"))
    try:
        waited = ("wait", "job/count", "-n", "demo", "--for=condition=Complete", "--timeout=120s")
        done = story.cluster.api.try_kubectl(*waited)
        assert done.returncode == 0, f"{done.stderr}\n{kubectl('describe', 'pods', '-n', 'demo', '-l', 'job-name=count')}"
        said = kubectl("logs", "-n", "demo", "-l", "job-name=count", "--tail=-1").splitlines()
    finally:
        kubectl("delete", "job", "count", "-n", "demo", "--cascade=foreground", "--timeout=60s")
        story.hub.disconnect()
    assert said == ["2 tensors, 17 parameters"] * 4


def test_the_statefulset_serves_its_own_model_and_the_one_that_another_team_lets_it_have(story: Story) -> None:
    kubectl = story.cluster.kubectl
    sums = {
        "base": uploaded(story.origin, "s3://models/ranker/v7/", size_bytes=SMALL_BYTES),
        "support": uploaded(story.origin, "s3://models/adapters/support/", size_bytes=SMALL_BYTES),
    }
    enabled = CliRunner().invoke(kubectl_prestage, ["enable", "team-b", "--secret", "s3"]).output
    kubectl("apply", "--server-side", "-f", "-", stdin=enabled)
    keys = json.loads(kubectl("get", "secret", "s3", "-n", "demo", "-o", "json"))
    secret = {**keys, "metadata": {"name": "s3", "namespace": "team-b"}}
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(secret))
    kubectl("apply", "-n", "team-b", "-f", "-", stdin=example("adapter"))
    kubectl("apply", "-n", "demo", "-f", "-", stdin=example("statefulset"))
    try:
        rolled = story.cluster.api.try_kubectl("rollout", "status", "statefulset/ranker", "-n", "demo", "--timeout=120s")
        assert rolled.returncode == 0, f"{rolled.stderr}\n{story.explained('ranker')}"
        assert [served(pod["status"]["podIP"], sums) for pod in story.pods("ranker")] == [sums] * 3
    finally:
        kubectl("delete", "statefulset,service", "ranker", "-n", "demo", "--timeout=60s")
        kubectl("wait", "pod", "-n", "demo", "-l", "app=ranker", "--for=delete", "--timeout=60s")


def served(address: str, wanted: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """SHA-256 of each of these files, as a pod serves them below its models' names."""
    found = dict[str, dict[str, str]]()
    for alias, files in wanted.items():
        for name in files:
            with urllib.request.urlopen(f"http://{address}:8000/{alias}/{name}", timeout=10) as answer:
                found.setdefault(alias, {})[name] = hashlib.sha256(answer.read()).hexdigest()
    return found
