"""The chart against a real API server: every object is accepted as it is, by helm itself too, and goes again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from charts import CHART, CRD_CHART, HOUSE, IMAGE, POLICIES, Rendered, rendered

from cluster import schemas
from cluster.apiserver import ApiServer
from servers.programs import find

pytestmark = pytest.mark.needs("kubernetes", "helm")


def helm(api: ApiServer, *words: str | Path) -> str:
    found = find("helm")
    assert found is not None
    env = {"HOME": str(api.folder), "PATH": "/usr/bin:/bin", "KUBECONFIG": str(api.kubeconfig)}
    done = subprocess.run([found, *words], capture_output=True, text=True, timeout=120, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "values", [(), ("node.hostNetwork=true", "seLinuxType=spc_t", "pools.b.root=/b,pools.b.requireMountpoint=false")]
)
def test_the_api_server_takes_every_object_and_warns_of_none(api: ApiServer, values: tuple[str, ...]) -> None:
    dry = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    said = api.try_kubectl(*dry, stdin=rendered(*values, serves=POLICIES))
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    assert "daemonset.apps/prestage-node serverside-applied" in said.stdout


@pytest.mark.needs("kubeconform")
def test_kubeconform_finds_nothing_and_would_have(api: ApiServer, tmp_path: Path) -> None:
    location = schemas.write(api.ask("/openapi/v2"), tmp_path)
    program = find("kubeconform")
    assert program is not None

    def conform(text: str) -> subprocess.CompletedProcess[str]:
        argv: list[str | Path] = [program, "-summary", "-output", "json", "-schema-location", location]
        return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=120, check=False)

    manifests = rendered()
    said = conform(manifests)
    assert said.returncode == 0, said.stdout
    assert json.loads(said.stdout)["summary"]["valid"] == sum(1 for one in yaml.safe_load_all(manifests) if one)
    assert conform(manifests.replace("maxUnavailable: 1", "maxUnavailble: 1")).returncode != 0


def test_the_control_plane_lives_under_the_strictest_pod_security(api: ApiServer) -> None:
    api.kubectl("create", "namespace", "strict")
    api.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    workloads = Rendered()
    refused = set()
    for name, pod in workloads.pods():
        spec = {**pod["spec"], "serviceAccountName": "default", "priorityClassName": "", "containers": pod["spec"]["containers"]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "strict"}, "spec": spec}
        api.try_kubectl("create", "serviceaccount", "default", "-n", "strict")
        said = api.try_kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
        if said.returncode != 0:
            assert "violates PodSecurity" in said.stderr, said.stderr
            refused.add(name)
    assert refused == {"prestage-node"}


def test_helm_installs_upgrades_rolls_back_and_uninstalls_and_the_kinds_stay(api: ApiServer) -> None:
    sets = [word for value in IMAGE for word in ("--set", value)]
    crds = yaml.safe_load_all((CRD_CHART / "templates" / "crds.yaml").read_text())
    for one in filter(None, crds):
        owner = ["meta.helm.sh/release-name=prestage-crds", "meta.helm.sh/release-namespace=prestage"]
        api.kubectl("annotate", "crd", one["metadata"]["name"], *owner)
        api.kubectl("label", "crd", one["metadata"]["name"], "app.kubernetes.io/managed-by=Helm")
    helm(api, "install", "prestage-crds", CRD_CHART, "--namespace", "prestage")
    notes = helm(api, "install", "prestage", CHART, "--namespace", "prestage", *sets)
    assert "kubectl prestage enable" in notes
    assert "not served yet" not in notes
    generation = "jsonpath={.metadata.generation}"
    where = ("get", "daemonset", "prestage-node", "-n", "prestage", "-o", generation)
    assert api.kubectl(*where) == "1"
    helm(api, "upgrade", "prestage", CHART, "--namespace", "prestage", *sets)
    assert api.kubectl(*where) == "1", "an upgrade that changes nothing must restart nothing"
    helm(api, "upgrade", "prestage", CHART, "--namespace", "prestage", *sets, "--set", "image.tag=v2")
    assert api.kubectl(*where) == "2"
    helm(api, "rollback", "prestage", "1", "--namespace", "prestage")
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    assert api.kubectl(*where[:-1], image) == "registry.example/prestage:v1"
    helm(api, "uninstall", "prestage", "--namespace", "prestage", "--no-hooks")  # there is no node for the hook's pod
    helm(api, "uninstall", "prestage-crds", "--namespace", "prestage")
    assert api.kubectl("get", "crd", "nodecaches.prestage.dev", "-o", "name")
    left = api.kubectl("get", "clusterrole,clusterrolebinding,csidriver,priorityclass,cachepolicy,origin", "-o", "name")
    assert [line for line in left.splitlines() if "prestage" in line] == []


@pytest.mark.parametrize("example", sorted((HOUSE / "daemonset" / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_accepted(api: ApiServer, example: Path) -> None:
    said = api.try_kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", example, "-n", "default")
    assert said.returncode == 0, said.stderr
