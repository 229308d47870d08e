"""A node without a kubelet: agent, driver and broker are real processes and servers, the API server is real; pods are objects."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from nodes import Driver, NodeParts

from cluster.apiserver import ApiServer
from cluster.kinds import install
from prestage.cacher.agent.client import AgentClient
from servers.broker import Broker, Model
from servers.hostile import Hostile

TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"


@dataclass
class Pods:
    """Of one namespace; nobody runs them."""

    api: ApiServer
    namespace: str
    kubelet: Path

    def make(self, name: str) -> str:
        """Its UID."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        spec: dict[str, object] = {"serviceAccountName": "default", "containers": [{"name": "main", "image": "none"}]}
        spec["automountServiceAccountToken"] = False
        made = self.api.ask(path, method="POST", body={"metadata": {"name": name}, "spec": spec})
        assert isinstance(made, dict)
        return str(made["metadata"]["uid"])

    def token(self, name: str, uid: str, audience: str = "prestage.dev") -> str:
        """As the kubelet would ask for."""
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default/token"
        bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
        body = {"spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound}}
        made = self.api.ask(path, method="POST", body=body)
        assert isinstance(made, dict)
        return str(made["status"]["token"])

    def context(self, name: str, uid: str, attributes: Mapping[str, str]) -> dict[str, str]:
        """What the kubelet says."""
        said = {"pod.name": name, "pod.namespace": self.namespace, "pod.uid": uid, "serviceAccount.name": "default"}
        return {**attributes, **{f"csi.storage.k8s.io/{key}": value for key, value in said.items()}}

    def target(self, uid: str) -> Path:
        """Where."""
        return self.kubelet / "pods" / uid / "volumes" / "kubernetes.io~csi" / "prestage-models" / "mount"


def tokens(token: str) -> dict[str, str]:
    return {TOKENS: json.dumps({"prestage.dev": {"token": token, "expirationTimestamp": "2030-01-01T00:00:00Z"}})}


@dataclass
class Standing:
    """What outlives a test."""

    parts: NodeParts
    broker: Broker
    pods: Pods
    api: ApiServer
    node: str


@dataclass
class World(Standing):
    """All of it."""

    driver: Driver

    def plan(self, *artifacts: str, action: str = "Stage", name: str = "p1") -> None:
        """What the planner would write."""
        listed = [{"digest": artifact, "action": action, "priority": 900_000_000} for artifact in artifacts]
        spec = {"nodeUID": "any", "plan": name, "artifacts": listed}
        path = f"/apis/prestage.dev/v1alpha1/nodecaches/{self.node}?fieldManager=prestage-planner&force=true"
        body = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": self.node}, "spec": spec}
        assert self.api.ask(path, method="PATCH", body=body, kind="application/apply-patch+yaml") is not None

    def staged(self, model: Model, timeout_s: float = 240) -> None:
        """Returns once it is, as long as that takes on a busy disk."""
        AgentClient(self.parts.agent_socket).call("POST", "/v1/stages", {"ref": model.artifact, "keep": True})
        self.parts.agent.wait_for("staged", artifact=model.artifact, timeout_s=timeout_s)

    def serve_again(self, model: Model) -> None:
        """Its origin has it (again)."""
        self.broker.serve(model)

    @property
    def origin(self) -> Hostile:
        """Where the bytes of models are."""
        return self.broker.origin

    def parts_stages(self) -> list[dict[str, object]]:
        """Active ones, as the agent shows them."""
        found = AgentClient(self.parts.agent_socket).call("GET", "/v1/stages")["items"]
        assert isinstance(found, list)
        return [stage for stage in found if stage["state"] not in ("done", "failed")]

    def trees(self) -> list[dict[str, object]]:
        found = AgentClient(self.parts.agent_socket).call("GET", "/v1/trees")["items"]
        assert isinstance(found, list)
        return found

    def status(self) -> dict[str, object]:
        seen = self.api.ask(f"/apis/prestage.dev/v1alpha1/nodecaches/{self.node}")
        return dict(seen.get("status") or {}) if isinstance(seen, dict) else {}

    def entry(self, model: Model) -> dict[str, object]:
        """How the node says that it stands."""
        entries = self.status().get("artifacts") or []
        assert isinstance(entries, list)
        return next((one for one in entries if one["digest"] == model.artifact), {})


@pytest.fixture(scope="module")
def short() -> Iterator[Path]:
    """A folder whose sockets have short names; its own name is one that an API server takes, which mkdtemp's may not be."""
    folder = Path(tempfile.gettempdir(), f"pn-{secrets.token_hex(5)}")
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def standing(api_server: ApiServer, short: Path) -> Iterator[Standing]:
    """One node for a whole module: its start costs seconds."""
    install(api_server)
    namespace, kubelet = f"node-{short.name}", short / "kubelet"
    assert api_server.ask("/api/v1/namespaces", method="POST", body={"metadata": {"name": namespace}}), "no namespace"
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    api_server.ask(path, method="POST", body={"metadata": {"name": "default"}})
    with (
        Broker(short) as broker,
        NodeParts(short, broker, api_server.kubeconfig, namespace, kubelet) as parts,
    ):
        yield Standing(parts, broker, Pods(api_server, namespace, kubelet), api_server, parts.node)


@pytest.fixture
def world(standing: Standing, hostile: Hostile) -> Iterator[World]:
    """It, with nothing left of the test before but what is staged; origin and connections are the test's own."""
    standing.broker.forget(hostile)
    with closing(Driver(standing.parts.endpoint)) as driver:
        yield World(standing.parts, standing.broker, standing.pods, standing.api, standing.node, driver)
