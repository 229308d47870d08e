"""`kubectl prestage` asks a real API server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.apiserver import ApiServer
from prestage.cacher.errors import Denied
from prestage.kubectl.cli import kubectl_prestage

pytestmark = pytest.mark.needs("kubernetes")
DIGEST = "sha256:" + "a" * 64


def said(api: ApiServer, *words: str | Path, kubeconfig: Path | None = None) -> str:
    argv = [*map(str, words), "--kubeconfig", str(kubeconfig or api.kubeconfig)]
    done = CliRunner().invoke(kubectl_prestage, argv)
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.stdout


def test_the_doctor_looks_at_everything_an_administrator_may(api: ApiServer) -> None:
    found = {one["check"]: one["level"] for one in json.loads(said(api, "doctor", "--json"))}
    assert found["kubernetes"] == found["policies"] == found["kinds"] == "ok"
    assert found["installed"] == found["podsecurity"] == "note"
    assert "error" not in found.values()


def test_what_enable_prints_is_taken_as_it_is_and_twice(api: ApiServer) -> None:
    manifest = CliRunner().invoke(kubectl_prestage, ["enable", "team-a", "--secret", "hf-token", "--fetcher"]).output
    for _ in range(2):
        api.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    can = ("auth", "can-i", "--as=system:serviceaccount:prestage:prestage-broker", "-n", "team-a", "get")
    assert api.try_kubectl(*can, "secret/hf-token").stdout.strip() == "yes"
    assert api.try_kubectl(*can, "secret/other").stdout.strip() == "no"
    assert api.try_kubectl(*can[:-1], "list", "secrets").stdout.strip() == "no"
    assert api.kubectl("get", "ns", "-l", "prestage.dev/enabled=true", "-o", "name").strip() == "namespace/team-a"


def test_tables_of_real_objects(api: ApiServer) -> None:
    api.kubectl("create", "namespace", "shown")
    model = {"apiVersion": "prestage.dev/v1alpha1", "kind": "StagedModel", "metadata": {"name": "m", "namespace": "shown"}}
    api.kubectl("apply", "-f", "-", stdin=json.dumps({**model, "spec": {"source": "hf://org/name"}}))
    cache = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": "n1"}}
    planned = {"nodeUID": "u", "artifacts": [{"digest": DIGEST, "action": "Stage"}]}
    api.kubectl("apply", "-f", "-", stdin=json.dumps({**cache, "spec": planned}))
    rows = json.loads(said(api, "models", "-n", "shown", "--json"))
    assert [(row["name"], row["source"], row["ready"]) for row in rows] == [("m", "hf://org/name", "Unknown")]
    assert "m" in said(api, "models", "-n", "shown").splitlines()[1]
    lines = said(api, "nodes").splitlines()
    assert lines[0].split() == ["NAME", "READY", "WARM", "STAGING", "FAILED", "USED", "BUDGET", "IMAGES", "HEARD", "MESSAGE"]
    assert lines[1].split()[:2] == ["n1", "Unknown"]
    assert json.loads(said(api, "status", "-n", "shown", "--json")) == {"parts": [], "pods": []}


def test_without_a_name_it_is_the_namespace_of_the_kubeconfigs_context(api: ApiServer, tmp_path: Path) -> None:
    api.kubectl("create", "namespace", "current")
    model = {"apiVersion": "prestage.dev/v1alpha1", "kind": "StagedModel", "metadata": {"name": "m", "namespace": "current"}}
    api.kubectl("apply", "-f", "-", stdin=json.dumps({**model, "spec": {"source": "hf://org/name"}}))
    there = tmp_path / "there.conf"
    there.write_text(api.kubeconfig.read_text())
    api.kubectl("config", "set-context", "--current", "--namespace=current", kubeconfig=there)
    for words, seen in (([], ["current"]), (["-n", "default"], [])):
        rows = json.loads(said(api, "models", "--json", *words, kubeconfig=there))
        assert [row["namespace"] for row in rows] == seen
    assert json.loads(said(api, "why", "m", "--json", kubeconfig=there))
    assert json.loads(said(api, "models", "--json")) == []


def test_a_tenant_sees_his_models_and_no_node(api: ApiServer) -> None:
    api.kubectl("create", "namespace", "tenant")
    verbs = ("--verb=get,list", "--resource=stagedmodels.prestage.dev,artifacts.prestage.dev")
    api.kubectl("create", "role", "reader", "-n", "tenant", *verbs)
    api.kubectl("create", "rolebinding", "reader", "-n", "tenant", "--role=reader", "--user=tom")
    identity = api.authority.issue("tom", user="tom")
    tom = api.authority.kubeconfig(api.folder / "tom.conf", api.url, identity)
    assert json.loads(said(api, "models", "-n", "tenant", "--json", kubeconfig=tom)) == []
    assert json.loads(said(api, "nodes", "--json", kubeconfig=tom)) == []
    refused = CliRunner().invoke(kubectl_prestage, ["status", "-n", "tenant", "--kubeconfig", str(tom)])
    assert isinstance(refused.exception, Denied)
    levels = {one["level"] for one in json.loads(said(api, "doctor", "--json", kubeconfig=tom))}
    assert levels <= {"ok", "note"}
