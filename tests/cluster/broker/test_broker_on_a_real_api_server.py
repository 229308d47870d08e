"""The broker's process with the rights of its roles, on a real API server: real tokens with the node's claim, real kinds, RBAC.

No kubelet and no controllers: nodes, pods and ReplicaSets are objects that a test made, and their tokens are real.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Iterator, Mapping
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from cryptography import x509
from offers import MODEL, repository

from cluster.apiserver import ApiServer
from cluster.kinds import install
from prestage.api.brokerage import (
    AUDIENCE,
    POD_AUDIENCE,
    FetchesRequest,
    MountsRequest,
    PodIdentity,
    ResolveRequest,
    Template,
    WantedMount,
)
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, Denied, PrestageError
from prestage.cacher.manifest import parse_manifest
from prestage.control.broker.rbac import OPTED_IN, RULES
from prestage.control.certificates import Keys, Serving, Terms, serving_certificate
from prestage.kube.client import KubeApi
from prestage.kube.rbac import Rule, policy_rules
from prestage.kube.settings import KubeSettings
from prestage.wire.broker_client import BrokerClient, BrokerSettings, refusal_of
from servers.fixtures import require
from servers.hub import Hub
from servers.programs import free_port

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.slow]
HOME = "prestage"
REF = "hf://meta/gated@main"


class Kube:
    """The API server with what an installation has: kinds, accounts, roles, two nodes, two teams."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        self.api, self.folder = api, folder
        install(api)
        for name in (HOME, "team-a", "team-b"):
            labels = {} if name == HOME else {"prestage.dev/enabled": "true"}
            self.put("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
            for account in ("prestage-broker", "prestage-planner", "prestage-node", "server"):
                self.put(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": account}})
        self.roles()
        for name in ("n1", "n2"):
            self.put("/api/v1/nodes", {"metadata": {"name": name}})

    def put(self, path: str, body: dict[str, object]) -> dict[str, object]:
        made = self.api.ask(path, method="POST", body=body)
        assert isinstance(made, dict), f"{path}: {body}"
        return made

    def ours(self, plural: str, kind: str, name: str, spec: Mapping[str, object]) -> None:
        """A cluster object of our group."""
        body: dict[str, object] = {"apiVersion": "prestage.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.put(f"/apis/prestage.dev/v1alpha1/{plural}", body)

    def get(self, path: str) -> dict[str, object]:
        found = self.api.ask(path)
        assert isinstance(found, dict), path
        return found

    def roles(self) -> None:
        """As the chart makes them, from the same tuple."""
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        self.put(
            f"{rbac}/clusterroles", {"metadata": {"name": "prestage-broker"}, "rules": policy_rules(RULES, namespaced=False)}
        )
        subject = {"kind": "ServiceAccount", "name": "prestage-broker", "namespace": HOME}
        binding = {"metadata": {"name": "prestage-broker"}, "subjects": [subject]}
        self.put(f"{rbac}/clusterrolebindings", {**binding, "roleRef": role_ref("ClusterRole")})
        self.role(HOME, policy_rules(RULES, namespaced=True))
        named = [Rule(one.api_group, one.resource, one.verbs, True, one.names or ("hf-token",)) for one in OPTED_IN]
        self.role("team-a", policy_rules(named, namespaced=True))

    def role(self, namespace: str, rules: list[dict[str, object]]) -> None:
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        subject = {"kind": "ServiceAccount", "name": "prestage-broker", "namespace": HOME}
        self.put(f"{rbac}/roles", {"metadata": {"name": "prestage-broker"}, "rules": rules})
        binding = {"metadata": {"name": "prestage-broker"}, "subjects": [subject], "roleRef": role_ref("Role")}
        self.put(f"{rbac}/rolebindings", cast("dict[str, object]", binding))

    def token(self, namespace: str, account: str, audience: str | None = None, pod: Mapping[str, object] | None = None) -> str:
        """By TokenRequest, bound to `pod` where there is one."""
        spec: dict[str, object] = {"audiences": [audience] if audience else [], "expirationSeconds": 3600}
        if pod is not None:
            head = cast("dict[str, object]", pod["metadata"])
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": head["name"], "uid": head["uid"]}
        made = self.put(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": spec})
        return str(cast("dict[str, object]", made["status"])["token"])

    def pod(self, namespace: str, name: str, node: str, account: str, **head: object) -> dict[str, object]:
        spec = {
            "nodeName": node,
            "serviceAccountName": account,
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "x"}],
        }
        return self.put(f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": name, **head}, "spec": spec})

    def kubeconfig(self) -> Path:
        """The broker's own."""
        token = self.token(HOME, "prestage-broker")
        return self.api.authority.token_kubeconfig(self.folder / "broker.kubeconfig", self.api.url, token)


def role_ref(kind: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "prestage-broker"}


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    require("kubernetes")
    folder = tmp_path_factory.mktemp("broker")
    with ApiServer(folder / "api", shared=True) as running:
        yield Kube(running, folder)


class Process:
    """`prestage control broker`."""

    def __init__(self, kube: Kube, folder: Path, name: str = "one") -> None:
        self.port, self.health = free_port(), free_port()
        self.url = f"https://localhost:{self.port}"
        self.log = folder / f"{name}.log"
        argv = [sys.executable, "-m", "prestage.cacher.cli", "control", "broker", "--namespace", HOME, "--name", "localhost"]
        argv += ["--listen", f"127.0.0.1:{self.port}", "--health", f"127.0.0.1:{self.health}"]
        argv += ["--kubeconfig", str(kube.kubeconfig())]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stderr=log, stdout=log)

    def wait(self) -> None:
        """Until it is well."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/healthz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> float:
        """Seconds from SIGTERM to its end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(20) == 0, self.log.read_text()
        finally:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - began


@pytest.fixture(scope="module")
def broker(kube: Kube) -> Iterator[Process]:
    running = Process(kube, kube.folder)
    try:
        running.wait()
        yield running
        took_s = running.stop()
        assert took_s < 10
        text = running.log.read_text()
        assert "Traceback" not in text, text
        assert '"level": "error"' not in text, "RBAC gives what is followed: " + text
    finally:
        running.process.kill()
        running.process.wait()


class Clients:
    """Clients of the broker, each with a token of its own; the authority as it was published."""

    def __init__(self, kube: Kube, broker: Process, folder: Path) -> None:
        self.kube, self.broker, self.folder, self.made = kube, broker, folder, list[BrokerClient]()
        found = kube.get(f"/api/v1/namespaces/{HOME}/configmaps/prestage-broker-ca")
        (folder / "ca.crt").write_text(str(cast("dict[str, object]", found["data"])["ca.crt"]))

    def by(self, token: str) -> BrokerClient:
        path = self.folder / f"token-{len(self.made)}"
        path.write_text(token)
        client = BrokerClient(BrokerSettings(self.broker.url, path, self.folder / "ca.crt"))
        self.made.append(client)
        return client

    def run(self, test: Awaitable[None]) -> None:
        async def bounded() -> None:
            try:
                async with asyncio.timeout(120):
                    await test
            finally:
                for client in self.made:
                    await client.close()

        asyncio.run(bounded())


@pytest.fixture
def clients(kube: Kube, broker: Process, tmp_path: Path) -> Clients:
    return Clients(kube, broker, tmp_path)


async def no(code: str, asking: Awaitable[object]) -> str:
    with pytest.raises(PrestageError) as found:
        await asking
    refusal = refusal_of(found.value)
    assert refusal is not None, found.value
    assert refusal.code == code, refusal
    return str(found.value)


@pytest.fixture
def gated(kube: Kube, hub: Hub) -> Iterator[Hub]:
    """A gated repository at the default Origin; team-a has a token for it, which RBAC gives to the broker."""
    repository(hub, "meta/gated", dict(MODEL), gated=True, tokens=["hf_ok"])
    spec = {"type": "HuggingFace", "default": True, "endpoint": hub.endpoint, "allowedCIDRs": ["127.0.0.0/8"]}
    kube.ours("origins", "Origin", "hub", spec)
    for namespace in ("team-a", "team-b"):
        path = f"/api/v1/namespaces/{namespace}/secrets"
        kube.put(path, {"metadata": {"name": "hf-token"}, "stringData": {"HF_TOKEN": "hf_ok"}})
    yield hub
    kube.api.ask("/apis/prestage.dev/v1alpha1/origins/hub", method="DELETE")
    for namespace in ("team-a", "team-b"):
        kube.api.ask(f"/api/v1/namespaces/{namespace}/secrets/hf-token", method="DELETE")


def wish(namespace: str, template: Template, credentials: str | None = None) -> ResolveRequest:
    return ResolveRequest(namespace=namespace, template=template, alias="llama", ref=REF, credentials=credentials)


def workload(kube: Kube, namespace: str) -> tuple[dict[str, object], dict[str, object], Template]:
    """A Deployment with its ReplicaSet and a pod on n1."""
    labels = {"app": "chat", "pod-template-hash": "h1"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    apps = f"/apis/apps/v1/namespaces/{namespace}"
    spec = {"selector": {"matchLabels": {"app": "chat"}}, "template": template}
    deployment = kube.put(f"{apps}/deployments", {"metadata": {"name": "chat"}, "spec": spec})
    owner = cast("dict[str, object]", deployment["metadata"])
    above = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat", "uid": owner["uid"], "controller": True}
    head = {"name": "chat-h1", "labels": labels, "ownerReferences": [above]}
    replica_set = kube.put(f"{apps}/replicasets", {"metadata": head, "spec": {**spec, "selector": {"matchLabels": labels}}})
    uid = cast("dict[str, object]", replica_set["metadata"])["uid"]
    controller = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat-h1", "uid": uid, "controller": True}
    pod = kube.pod(namespace, "chat-1", "n1", "server", labels=labels, ownerReferences=[controller])
    return deployment, pod, Template(uid=str(owner["uid"]), hash="h1")


def identity(pod: Mapping[str, object]) -> PodIdentity:
    head = cast("dict[str, str]", pod["metadata"])
    return PodIdentity(namespace=head["namespace"], name=head["name"], uid=head["uid"], service_account="server")


def test_from_an_annotation_to_a_granted_mount(kube: Kube, clients: Clients, gated: Hub) -> None:
    _, pod, template = workload(kube, "team-a")
    agents = {node: kube.pod(HOME, f"agent-{node}", node, "prestage-node") for node in ("n1", "n2")}
    planner = clients.by(kube.token(HOME, "prestage-planner", AUDIENCE))
    nodes = {node: clients.by(kube.token(HOME, "prestage-node", AUDIENCE, agent)) for node, agent in agents.items()}
    mount = MountsRequest(
        pod=identity(pod),
        pod_token=kube.token("team-a", "server", POD_AUDIENCE, pod),
        models=[WantedMount(alias="llama", ref=REF)],
    )

    async def test() -> None:
        await no("NotResolved", nodes["n1"].mounts(mount))
        resolved = await planner.resolve(wish("team-a", template, credentials="hf-token"))
        assert resolved == await planner.resolve(wish("team-a", template)), "recorded: no credential is needed any more"
        name = resolved.artifact.replace(":", "-")
        stored = kube.get(f"/apis/prestage.dev/v1alpha1/namespaces/team-a/artifacts/{name}")
        templates = cast("dict[str, object]", stored["status"])["templates"]
        assert templates == [{"uid": template.uid, "hash": "h1", "alias": "llama", "ref": REF}]
        for node in ("n1", "n2"):
            uid = cast("dict[str, object]", kube.get(f"/api/v1/nodes/{node}")["metadata"])["uid"]
            rows = [{"digest": resolved.artifact, "action": "Stage"}] if node == "n1" else []
            kube.ours("nodecaches", "NodeCache", node, {"nodeUID": uid, "artifacts": rows})
        manifest = parse_manifest(
            (await nodes["n1"].manifest(resolved.artifact)).manifest.encode(), ArtifactId(resolved.artifact)
        )
        await no("NotInPlan", nodes["n2"].manifest(resolved.artifact))
        paths = [file.path for file in manifest.files]
        answer = await nodes["n1"].fetches(FetchesRequest(artifact=resolved.artifact, paths=paths))
        assert "hf_ok" not in repr(answer)
        [weights] = [one for one in answer.fetches if one.path == "model.safetensors"]
        async with aiohttp.ClientSession() as session, session.get(weights.url) as got:
            assert await got.read() == MODEL["model.safetensors"]
        await asyncio.sleep(0.2)
        [granted] = (await nodes["n1"].mounts(mount)).models
        assert (granted.artifact, granted.rule) == (resolved.artifact, "namespace team-a resolved it")
        await no("AnotherNode", nodes["n2"].mounts(mount))
        access = cast("dict[str, object]", kube.get(f"/apis/prestage.dev/v1alpha1/namespaces/team-a/artifacts/{name}")["status"])
        [row] = cast("list[dict[str, str]]", access["access"])
        assert (row["source"], row["state"]) == (f"{REF} by hf-token", "Verified")
        while "status" not in kube.get("/apis/prestage.dev/v1alpha1/origins/hub"):
            await asyncio.sleep(0.2)
        said = cast("dict[str, object]", kube.get("/apis/prestage.dev/v1alpha1/origins/hub")["status"])
        [ready] = cast("list[dict[str, str]]", said["conditions"])
        assert (ready["status"], ready["reason"]) == ("True", "Reachable")

    clients.run(test())
    lines = [json.loads(line) for line in clients.broker.log.read_text().splitlines()]
    [said] = [line for line in lines if line["event"] == "mount-granted"]
    assert (said["namespace"], said["service_account"], said["node"], said["pod"]) == ("team-a", "server", "n1", "chat-1")
    assert "hf_ok" not in clients.broker.log.read_text()


def test_secrets_are_read_only_where_the_namespace_gave_them(kube: Kube, clients: Clients, gated: Hub) -> None:
    planner = clients.by(kube.token(HOME, "prestage-planner", AUDIENCE))
    kube.put("/api/v1/namespaces/team-a/secrets", {"metadata": {"name": "not-named"}, "stringData": {"HF_TOKEN": "hf_ok"}})

    async def test() -> None:
        theirs = await no("NoCredentials", planner.resolve(wish("team-b", Template(uid="b", hash="h"), credentials="hf-token")))
        assert "kubectl prestage enable team-b" in theirs
        unnamed = await no("NoCredentials", planner.resolve(wish("team-a", Template(uid="c", hash="h"), credentials="not-named")))
        assert "kubectl prestage enable team-a" in unnamed
        assert (await planner.resolve(wish("team-a", Template(uid="d", hash="h"), credentials="hf-token"))).files == len(MODEL)

    clients.run(test())


def test_real_tokens_say_whose_they_are_and_nothing_else_counts(kube: Kube, clients: Clients) -> None:
    tenant = kube.pod("team-b", "evil", "n1", "server")
    agent = kube.pod(HOME, "agent-x", "n1", "prestage-node")
    gone = kube.pod("team-b", "gone", "n1", "server")
    node = clients.by(kube.token(HOME, "prestage-node", AUDIENCE, agent))
    digest = "sha256:" + "0" * 64
    signed = kube.token(HOME, "prestage-node", AUDIENCE, agent)
    head, claims, signature = signed.split(".")
    strangers = {
        "NotANode": [kube.token("team-b", "server", AUDIENCE, tenant), kube.token("team-b", "prestage-node", AUDIENCE)],
        "NoNodeClaim": [kube.token(HOME, "prestage-node", AUDIENCE)],
        "NotAuthenticated": [
            kube.token(HOME, "prestage-node", "vault", agent),
            kube.token(HOME, "prestage-node", None, agent),
            f"{head}.{claims}.{signature[:-4]}AAAA",
            f"{head}.{claims[:-8]}AAAAAAAA.{signature}",
        ],
    }
    gone_token = kube.token("team-b", "server", POD_AUDIENCE, gone)
    evil_token = kube.token("team-b", "server", POD_AUDIENCE, tenant)
    kube.api.ask("/api/v1/namespaces/team-b/pods/gone?gracePeriodSeconds=0", method="DELETE")
    wanted = [WantedMount(alias="llama", ref=REF, artifact=digest)]

    async def test() -> None:
        for code, tokens in strangers.items():
            for token in tokens:
                await no(code, clients.by(token).manifest(digest))
        await no("NotInPlan", node.manifest(digest))
        await no("NotThePlanner", node.resolve(wish("team-a", Template(uid="x", hash="h"))))
        await no("NotAuthenticated", node.mounts(MountsRequest(pod=identity(gone), pod_token=gone_token, models=wanted)))
        await no("AnotherPod", node.mounts(MountsRequest(pod=identity(agent), pod_token=evil_token, models=wanted)))
        await no("NoGrant", node.mounts(MountsRequest(pod=identity(tenant), pod_token=evil_token, models=wanted)))

    clients.run(test())


def test_two_replicas_serve_one_certificate_and_resolve_once(kube: Kube, clients: Clients, gated: Hub, tmp_path: Path) -> None:
    second = Process(kube, tmp_path, "two")
    try:
        second.wait()
        other = Clients(kube, second, tmp_path)
        one, two = (each.by(kube.token(HOME, "prestage-planner", AUDIENCE)) for each in (clients, other))

        async def test() -> None:
            template = Template(uid="both", hash="h")
            asked = [client.resolve(wish("team-a", template, credentials="hf-token")) for client in (one, two) * 4]
            assert len(set(await asyncio.gather(*asked))) == 1
            found = kube.get("/apis/prestage.dev/v1alpha1/namespaces/team-a/artifacts")
            uses = [
                use
                for item in cast("list[dict[str, dict[str, list[dict[str, str]]]]]", found["items"])
                for use in item["status"]["templates"]
                if use["uid"] == "both"
            ]
            assert len(uses) == 1
            assert not kube.get(f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases")["items"]
            await two.close()

        clients.run(test())
        assert second.stop() < 10
    finally:
        second.process.kill()
        second.process.wait()


def test_replicas_race_for_the_secret_and_rotation_overlaps(kube: Kube, tmp_path: Path) -> None:
    settings = KubeSettings(kubeconfig=kube.api.kubeconfig)
    day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)

    async def at(api: KubeApi, days: float) -> Keys:
        return await serving_certificate(api, "team-b", "other", clock=lambda: now + days * day)

    async def test() -> None:
        async with await KubeApi.connect(settings) as one, await KubeApi.connect(settings) as two:
            raced = await asyncio.gather(*(serving_certificate(api, "team-b", "other") for api in (one, two) * 3))
            assert len(set(raced)) == 1
            first = raced[0]
            renewed = await at(two, 21)
            assert renewed.authorities == first.authorities
            assert renewed.chain != first.chain
            both = await at(one, 244)
            assert len(x509.load_pem_x509_certificates(both.authorities)) == 2
            published = kube.get("/api/v1/namespaces/team-b/configmaps/other-ca")
            assert cast("dict[str, str]", published["data"])["ca.crt"].encode() == both.authorities
            moved = await asyncio.gather(at(one, 244.1), at(two, 244.1))
            assert moved[0] == moved[1]
            assert moved[0].authorities == both.authorities
            serving = Serving(one, "team-b", "third", terms=Terms())
            assert await serving.refresh() == await serving_certificate(two, "team-b", "third")

    async def bounded() -> None:
        async with asyncio.timeout(120):
            await test()

    asyncio.run(bounded())


def test_the_api_server_away_is_said_as_that_and_passes(kube: Kube, clients: Clients, gated: Hub) -> None:
    planner = clients.by(kube.token(HOME, "prestage-planner", AUDIENCE))
    agent = clients.by(kube.token(HOME, "prestage-node", AUDIENCE, kube.pod(HOME, "agent-y", "n1", "prestage-node")))

    async def test() -> None:
        template = Template(uid="down", hash="h")
        resolved = await planner.resolve(wish("team-a", template, credentials="hf-token"))
        await asyncio.to_thread(kube.api.down)
        assert await planner.resolve(wish("team-a", template)) == resolved, "recorded, and the token was seen before"
        with pytest.raises(PrestageError) as found:
            await agent.manifest(resolved.artifact, deadline_s=3)
        assert not isinstance(found.value, Denied | Busy)
        await asyncio.to_thread(kube.api.up)
        await no("NotInPlan", agent.manifest(resolved.artifact, deadline_s=30))

    clients.run(test())
