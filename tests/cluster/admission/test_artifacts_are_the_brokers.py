"""Who may write an Artifact: a namespace that could would grant itself what others resolved. On a real API server."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest
from pods.objects import DIGEST

from cluster.apiserver import ApiServer
from cluster.pods import OURS, account, applied
from prestage.control.admission.manifests import artifact_policy
from prestage.kube.rbac import Rule

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]

EVERYTHING = tuple(Rule("prestage.dev", kind, ("*",), namespaced=False) for kind in ("artifacts", "artifacts/status"))
NAME = DIGEST.replace(":", "-")
MADE = {
    "apiVersion": "prestage.dev/v1alpha1",
    "kind": "Artifact",
    "metadata": {"name": NAME, "namespace": OURS},
    "spec": {"digest": DIGEST, "files": 1, "size": 1, "manifest": base64.b64encode(gzip.compress(b"{}")).decode()},
}


@pytest.fixture(scope="module")
def guarded(admission_api: ApiServer) -> ApiServer:
    api = admission_api
    applied(api, *artifact_policy(namespace=OURS, account="prestage-broker"))
    account(api, "prestage-broker", EVERYTHING)
    api.kubectl(
        "create", "role", "all", "-n", OURS, "--verb=*", "--resource=artifacts.prestage.dev,artifacts.prestage.dev/status"
    )
    api.kubectl("create", "rolebinding", "all", "-n", OURS, "--role=all", "--user=tom")
    api.processes.wait_for(lambda: "by the broker alone" in created(api, as_tom(api)), what="the policy")
    return api


def as_tom(api: ApiServer) -> Path:
    """He may do everything with Artifacts, in one namespace."""
    return api.authority.kubeconfig(api.folder / "tom.conf", api.url, api.authority.issue("tom", user="tom"))


def created(api: ApiServer, kubeconfig: Path) -> str:
    done = api.try_kubectl("create", "-f", "-", "--dry-run=server", stdin=json.dumps(MADE), kubeconfig=kubeconfig)
    return done.stdout + done.stderr


def test_an_owner_of_everything_in_his_namespace_writes_none(guarded: ApiServer) -> None:
    said = created(guarded, as_tom(guarded))
    assert "is written by the broker alone: name a model in an annotation" in said
    assert "Forbidden" in said


def test_the_broker_writes_it_and_its_status(guarded: ApiServer) -> None:
    api = guarded
    token = api.kubectl("create", "token", "prestage-broker", "-n", OURS).strip()
    broker = api.authority.token_kubeconfig(api.folder / "broker.conf", api.url, token)
    made = api.try_kubectl("create", "-f", "-", stdin=json.dumps(MADE), kubeconfig=broker)
    assert made.returncode == 0, made.stderr
    record = {"status": {"templates": [{"uid": "u", "hash": "-", "alias": "llama", "ref": "hf://org/name"}]}}
    words = ("patch", "artifact", NAME, "-n", OURS, "--subresource=status", "--type=merge", "-p")
    assert api.try_kubectl(*words, json.dumps(record), kubeconfig=broker).returncode == 0
    assert "by the broker alone" in api.try_kubectl(*words, json.dumps({"status": None}), kubeconfig=as_tom(api)).stderr


def test_an_administrator_restores_one(guarded: ApiServer) -> None:
    other = {**MADE, "metadata": {"name": "restored", "namespace": OURS}}
    assert guarded.try_kubectl("create", "-f", "-", "--dry-run=server", stdin=json.dumps(other)).returncode == 0
