"""What the chart promises, whoever may have edited it: privileges, walls, and that two renderings agree with each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from charts import CHART, CRD_CHART, POLICIES, Manifest, Rendered, helm, rendered

pytestmark = pytest.mark.needs("helm")

CONTROL = ("prestage-broker", "prestage-planner", "prestage-admission")


@pytest.fixture(scope="module")
def chart() -> Rendered:
    return Rendered()


def containers(pod: Manifest) -> dict[str, dict[str, Any]]:
    spec = pod["spec"]
    return {one["name"]: one for one in (*spec.get("initContainers", ()), *spec["containers"])}


@pytest.mark.parametrize("chart_folder", [CHART, CRD_CHART], ids=["prestage", "prestage-crds"])
def test_helm_lint_finds_nothing(chart_folder: str) -> None:
    said = helm("lint", "--strict", chart_folder)
    assert said.returncode == 0, said.stdout + said.stderr


def test_only_the_container_that_mounts_is_privileged(chart: Rendered) -> None:
    for workload, pod in chart.pods():
        for name, container in containers(pod).items():
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, (workload, name)
            if (workload, name) == ("prestage-node", "csi"):
                assert security["privileged"] is True
            else:
                assert security["capabilities"] == {"drop": ["ALL"]}, (workload, name)
                assert security["allowPrivilegeEscalation"] is False, (workload, name)
                assert "privileged" not in security, (workload, name)


def test_the_control_plane_runs_as_nobody_and_touches_no_node(chart: Rendered) -> None:
    for workload in CONTROL:
        spec = chart.one("Deployment", workload)["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert not any("hostPath" in volume for volume in spec["volumes"])
        assert "hostNetwork" not in spec


def test_mounts_go_out_of_one_container_only_and_no_runtime_socket_goes_in(chart: Rendered) -> None:
    pod = chart.one("DaemonSet", "prestage-node")["spec"]["template"]
    ways = {
        (name, mount["name"]): mount["mountPropagation"]
        for name, container in containers(pod).items()
        for mount in container["volumeMounts"]
        if "mountPropagation" in mount
    }
    assert ways == {
        ("agent", "store"): "HostToContainer",
        ("csi", "store"): "HostToContainer",
        ("csi", "pods"): "Bidirectional",
    }
    paths = {volume["name"]: volume["hostPath"] for volume in pod["spec"]["volumes"] if "hostPath" in volume}
    assert paths == {
        "store": {"path": "/mnt/prestage", "type": "Directory"},
        "plugin": {"path": "/var/lib/kubelet/plugins/prestage.dev", "type": "DirectoryOrCreate"},
        "registration": {"path": "/var/lib/kubelet/plugins_registry", "type": "Directory"},
        "pods": {"path": "/var/lib/kubelet/pods", "type": "Directory"},
    }
    agent = {mount["name"] for mount in containers(pod)["agent"]["volumeMounts"]}
    assert agent.isdisjoint({"pods", "plugin", "registration"})


def test_containerds_socket_goes_into_the_images_container_alone_and_only_when_asked_for() -> None:
    """Root on the node: off by default (above)."""
    pod = Rendered("images.enabled=true").one("DaemonSet", "prestage-node")["spec"]["template"]
    found = containers(pod)
    assert found["images"]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    holders = {name for name, one in found.items() if any(mount["name"] == "containerd" for mount in one["volumeMounts"])}
    assert holders == {"images"}
    mounts = {mount["name"]: mount for mount in found["images"]["volumeMounts"]}
    assert mounts["containerd-root"]["readOnly"] is True
    assert {"store", "pods", "plugin", "registration", "run"}.isdisjoint(mounts)
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if "hostPath" in volume}
    assert paths["containerd"] == "/run/containerd"
    assert "--containerd=/run/containerd/containerd.sock" in found["images"]["args"]
    assert "--beside-images" in found["agent"]["args"]
    assert "--beside-images" not in containers(Rendered().one("DaemonSet", "prestage-node")["spec"]["template"])["agent"]["args"]


def test_layers_are_put_in_place_only_where_that_is_asked_for_and_containerds_folder_is_writable_only_then() -> None:
    for said, is_in_place in (("false", False), ("true", True)):
        rendered = Rendered("images.enabled=true", f"images.inPlace={said}").one("DaemonSet", "prestage-node")
        one = containers(rendered["spec"]["template"])["images"]
        mounts = {mount["name"]: mount for mount in one["volumeMounts"]}
        assert ("--in-place" in one["args"], mounts["containerd-root"]["readOnly"]) == (is_in_place, not is_in_place)
        assert mounts["containerd-root"]["mountPath"] == "/var/lib/containerd", "as containerd itself sees it"


def test_metrics_of_the_images_container_are_found_where_those_of_others_are() -> None:
    """Its port has a name of its own: they share the pod."""
    words = ("metrics.podMonitor=true",)
    for enabled, ports in (((), ["metrics"]), (("images.enabled=true",), ["metrics", "images-metrics"])):
        rendered = Rendered(*words, *enabled)
        monitor, service = rendered.one("PodMonitor", "prestage")["spec"], rendered.one("Service", "prestage-metrics")["spec"]
        assert [one["port"] for one in monitor["podMetricsEndpoints"]] == ports
        assert [one["targetPort"] for one in service["ports"]] == ports
        open_ = [
            port["port"] for rule in rendered.one("NetworkPolicy", "prestage-node")["spec"]["ingress"] for port in rule["ports"]
        ]
        assert open_ == ports
        named = [
            port["name"]
            for one in containers(rendered.one("DaemonSet", "prestage-node")["spec"]["template"]).values()
            for port in one.get("ports", ())
        ]
        assert named == ports


def test_an_unmounted_disk_stops_the_pod_before_the_agent(chart: Rendered) -> None:
    pod = chart.one("DaemonSet", "prestage-node")["spec"]["template"]
    assert containers(pod)["mountpoint"]["args"] == ["node", "mountpoint", "--root=/mnt/prestage"]
    without = Rendered("pools.default.requireMountpoint=false").one("DaemonSet", "prestage-node")["spec"]["template"]
    assert "mountpoint" not in containers(without)


def test_tokens_are_bound_short_and_each_for_one_reader(chart: Rendered) -> None:
    for workload, pod in chart.pods():
        assert pod["spec"]["automountServiceAccountToken"] is False
        tokens = [
            source["serviceAccountToken"]
            for volume in pod["spec"]["volumes"]
            for source in volume.get("projected", {}).get("sources", ())
            if "serviceAccountToken" in source
        ]
        audiences = {token.get("audience") for token in tokens}
        assert audiences == ({None, "prestage-broker"} if workload in ("prestage-node", "prestage-planner") else {None})
        assert all(token["expirationSeconds"] <= 3700 for token in tokens)


def test_nobody_may_read_every_secret(chart: Rendered) -> None:
    for role in (*chart.kind("ClusterRole"), *chart.kind("Role")):
        for rule in role["rules"]:
            assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"]), role["metadata"]["name"]
            if "secrets" in rule["resources"] and set(rule["verbs"]) != {"create"}:
                assert role["kind"] == "Role"
                assert rule["resourceNames"], role["metadata"]["name"]
    broker = chart.one("ClusterRole", "prestage-broker")["rules"]
    assert not any("secrets" in rule["resources"] for rule in broker)


def test_a_node_writes_its_status_and_takes_a_taint_off_and_nothing_else(chart: Rendered) -> None:
    rules = chart.one("ClusterRole", "prestage-node")["rules"]
    writes = {
        resource
        for rule in rules
        for resource in rule["resources"]
        if not set(rule["verbs"]) <= {"get", "list", "watch"} and rule["apiGroups"] == ["prestage.dev"]
    }
    assert writes == {"nodecaches/status"}
    of_nodes = {verb for rule in rules if "nodes" in rule["resources"] for verb in rule["verbs"]}
    assert of_nodes == {"get", "patch"}
    policies = {one["metadata"]["name"] for one in chart.kind("ValidatingAdmissionPolicyBinding")}
    assert {"nodes.prestage.dev", "nodecaches.prestage.dev"} <= policies, "what a role cannot say"
    assert "Role" not in {one["kind"] for one in chart.all if one["metadata"]["name"] == "prestage-node"}


def test_every_selector_selects_the_pods_it_is_meant_for(chart: Rendered) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in chart.pods()}

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, has in labels.items() if selector.items() <= has.items()}

    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        for one in chart.kind(kind):
            spec = one["spec"]
            selector = spec["selector"] if kind == "Service" else (spec.get("selector") or spec["podSelector"])["matchLabels"]
            name = one["metadata"]["name"]
            assert selected(selector) == (set(labels) if name == "prestage-metrics" else {name})


def test_a_port_that_a_service_names_is_there(chart: Rendered) -> None:
    for service in chart.kind("Service"):
        for port in service["spec"]["ports"]:
            for name, pod in chart.pods():
                if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items():
                    ports = {one["name"] for container in containers(pod).values() for one in container.get("ports", ())}
                    assert port["targetPort"] in ports, name


def test_pools_are_daemonsets_and_store_pools_of_their_own() -> None:
    two = Rendered(
        "pools.h100.root=/mnt/nvme/prestage",
        "pools.h100.requireMountpoint=false",
        "pools.h100.budget=6Ti",
        "pools.h100.nodeSelector.gpu=h100",
        "pools.h100.startupTaint.maxSeconds=300",
    )
    pool = two.one("StorePool", "h100")
    assert pool["spec"] == {
        "nodeSelector": {"matchLabels": {"gpu": "h100"}},
        "root": "/mnt/nvme/prestage",
        "requireMountpoint": False,
        "budget": "6Ti",
        "startupTaint": {"maxSeconds": 300},
    }
    daemons = two.one("DaemonSet", "prestage-node-h100")
    pod = daemons["spec"]["template"]
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux", "gpu": "h100"}
    assert "--budget=6Ti" in containers(pod)["agent"]["args"]
    assert daemons["spec"]["selector"] != two.one("DaemonSet", "prestage-node")["spec"]["selector"]


def test_rights_to_ask_for_nodes_are_given_where_a_value_says_so_and_an_uninstall_takes_back_what_was_asked(
    chart: Rendered,
) -> None:
    assert "capacitybuffers" not in json.dumps(chart.all)
    assert "--capacity-buffers" not in json.dumps(chart.all)
    asking = Rendered("capacity.enabled=true")
    rules = asking.one("ClusterRole", "prestage-planner-capacity")["rules"]
    assert {name for rule in rules for name in rule["resources"]} == {"capacitybuffers", "podtemplates"}
    subject = {"kind": "ServiceAccount", "name": "prestage-planner", "namespace": "prestage"}
    assert asking.one("ClusterRoleBinding", "prestage-planner-capacity")["subjects"] == [subject]
    planner = asking.one("Deployment", "prestage-planner")["spec"]["template"]
    assert "--capacity-buffers" in containers(planner)["planner"]["args"]
    hook = asking.one("Job", "prestage-uninstall")["spec"]["template"]
    assert containers(hook)["ungate"]["args"] == ["control", "ungate", "--capacity-buffers"]
    assert "capacitybuffers" in json.dumps(asking.one("ClusterRole", "prestage-uninstall")["rules"])


def test_a_kubelet_elsewhere_is_one_value() -> None:
    pod = Rendered("kubeletDir=/var/lib/k0s/kubelet").one("DaemonSet", "prestage-node")["spec"]["template"]
    said = json.dumps(pod)
    assert "/var/lib/kubelet" not in said
    assert "--driver-path=/var/lib/k0s/kubelet/plugins/prestage.dev/csi.sock" in containers(pod)["csi"]["args"]


@pytest.mark.parametrize(
    ("kubernetes", "values", "expected"),
    [
        ("1.34.1", (), None),
        ("1.35.0", (), True),
        ("1.36.3", (), True),
        ("1.36.3", ("csiDriver.tokenInSecrets=false",), False),
        ("1.34.1", ("csiDriver.tokenInSecrets=true",), True),
    ],
)
def test_a_pods_token_travels_in_secrets_where_the_cluster_can(
    kubernetes: str, values: tuple[str, ...], expected: bool | None
) -> None:
    driver = Rendered(*values, kubernetes=kubernetes).one("CSIDriver", "prestage.dev")["spec"]
    assert driver.get("serviceAccountTokenInSecrets") is expected
    assert driver["podInfoOnMount"] is True
    assert driver["attachRequired"] is False
    assert driver["tokenRequests"][0]["audience"] == "prestage.dev"


def test_the_default_wall_is_visible_and_holds_for_every_namespace(chart: Rendered) -> None:
    policy = chart.one("CachePolicy", "default")["spec"]
    assert policy["namespaceSelector"] == {}
    assert policy["hard"] == {"bytesPerNode": "500Gi", "bytes": "20Ti"}
    assert {one["metadata"]["name"] for one in chart.kind("Origin") if one["spec"]["default"]} == {"huggingface", "s3"}
    narrow = Rendered("defaultPolicy.origins[0].origin=huggingface", "defaultPolicy.origins[0].match=meta-llama/*")
    allow = narrow.one("CachePolicy", "default")["spec"]["origins"]["allow"]
    assert allow == [{"originRef": {"name": "huggingface"}, "match": "meta-llama/*"}]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("image.repository=", "say where you pushed the image"),
        ("imagine.repository=x", "imagine"),
        ("pools.default.rot=/mnt/x", "rot"),
        ("pools.default.root=mnt/x", "/pools/default/root"),
        ("pools.default.startupTaint.maxSeconds=0", "/pools/default/startupTaint/maxSeconds"),
        ("pools.default=null", "pools"),
        ("kubeletDir=kubelet", "kubeletDir"),
        ("broker.replicas=0", "/broker/replicas"),
        ("image.digest=sha256:1", "/image/digest"),
        ("admission.policy=Never", "/admission/policy"),
    ],
)
def test_a_mistake_in_values_is_refused_and_named(value: str, says: str) -> None:
    with pytest.raises(RuntimeError, match=says):
        rendered(value)


@pytest.mark.parametrize(
    ("values", "serves", "expected"),
    [((), (), False), ((), POLICIES, True), (("admission.policy=Webhook",), POLICIES, False)],
)
def test_a_mutating_policy_is_there_where_it_is_served(values: tuple[str, ...], serves: tuple[str, ...], expected: bool) -> None:
    made = Rendered(*values, serves=serves)
    assert bool(made.kind("MutatingAdmissionPolicy")) is expected
    [hook] = made.one("MutatingWebhookConfiguration", "prestage")["webhooks"]
    assert (hook["failurePolicy"], hook["timeoutSeconds"]) == ("Ignore", 2)
    service = made.one("Service", "prestage-admission")
    assert hook["clientConfig"]["service"]["namespace"] == service["metadata"]["namespace"]
    assert hook["clientConfig"]["service"]["port"] == service["spec"]["ports"][0]["port"]


def test_an_uninstall_looks_for_mounts_before_it_ungates(chart: Rendered) -> None:
    job = chart.one("Job", "prestage-uninstall")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    spec = job["spec"]["template"]["spec"]
    assert spec["initContainers"][0]["command"] == ["kubectl-prestage", "mounted", "--refuse"]
    assert spec["containers"][0]["args"] == ["control", "ungate"]
    assert job["spec"]["backoffLimit"] == 0


def test_an_older_kubernetes_is_refused() -> None:
    with pytest.raises(RuntimeError, match="requires kubeVersion"):
        rendered(kubernetes="1.31.9")


def test_an_image_by_digest_wins_over_its_tag() -> None:
    digest = "sha256:" + "a" * 64
    images = {c["image"] for _, pod in Rendered(f"image.digest={digest}").pods() for c in containers(pod).values()}
    assert images == {f"registry.example/prestage@{digest}"}
