"""A whole broker over a cluster in memory: its own process's parts, TLS and HTTP included; only the API server is a fake.

def test(world):                                    # world = Cluster(...)
    play(world, lambda broker: ...)                 # broker.planner, broker.node("n1"): clients with tokens of theirs
"""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prestage.api.brokerage import AUDIENCE, POD_AUDIENCE, PodIdentity, ResolveRequest, Template
from prestage.control.access import AccessTerms
from prestage.control.broker.app import Address, BrokerConfig, Running, run
from prestage.control.broker.identity import Accounts
from prestage.control.templates import template_of
from prestage.kube.errors import Missing
from prestage.kube.ports import Object, Resource, uid_of
from prestage.kube.resources import (
    ARTIFACTS,
    CACHE_POLICIES,
    CONFIG_MAPS,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    ORIGINS,
    PODS,
    REPLICA_SETS,
    SECRETS,
    SERVICE_ACCOUNTS,
    STAGED_MODEL_GRANTS,
    STAGED_MODELS,
    STORE_POOLS,
    TOKEN_REVIEWS,
)
from prestage.kube.testing import FakeApi
from prestage.wire.broker_client import BrokerClient, BrokerSettings

HOME = "prestage"
LOOPBACK = ("127.0.0.0/8",)
_CLAIM = "authentication.kubernetes.io/"


class Cluster(FakeApi):
    """Knows tokens, and makes those of service accounts. Secrets are given out only where `readable` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.reviews = 0
        self.token_requests: list[tuple[str, str]] = []
        self.secrets_read: list[tuple[str, str]] = []
        self._tokens: dict[str, tuple[str, str, dict[str, str]]] = {}
        self._numbers = itertools.count(1)

    def token(self, user: str, audience: str = AUDIENCE, **claims: str) -> str:
        """A token that the API server knows. `claims`: node_name, pod_uid …"""
        made = f"eyJ0.e{next(self._numbers)}.sig"
        self._tokens[made] = (user, audience, {_CLAIM + name.replace("_", "-"): value for name, value in claims.items()})
        return made

    def forget(self, token: str) -> None:
        """It has expired, or its pod is gone."""
        del self._tokens[token]

    def account(self, name: str, namespace: str = HOME, audience: str = AUDIENCE, **claims: str) -> str:
        return self.token(f"system:serviceaccount:{namespace}:{name}", audience, **claims)

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None) -> Object:
        if resource == SECRETS and namespace != HOME:
            self.secrets_read.append((namespace or "", name))
        return await super().get(resource, name, namespace=namespace, subresource=subresource)

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        if resource == TOKEN_REVIEWS:
            return self._review(body)
        if resource == SERVICE_ACCOUNTS and subresource == "token":
            self.token_requests.append((namespace or "", name or ""))
            await super().get(resource, name or "", namespace=namespace)
            return {"status": {"token": "eyJ0.account.sig"}}
        return await super().create(resource, body, namespace=namespace, name=name, subresource=subresource)

    def _review(self, body: Object) -> Object:
        self.reviews += 1
        spec = body["spec"]
        assert isinstance(spec, Mapping)
        known = self._tokens.get(str(spec["token"]))
        if known is None or known[1] not in spec["audiences"]:
            return {"status": {"authenticated": False, "error": "invalid bearer token"}}
        user, audience, claims = known
        extra = {name: [value] for name, value in claims.items()}
        return {"status": {"authenticated": True, "audiences": [audience], "user": {"username": user, "extra": extra}}}

    def put(self, resource: Resource, body: Object) -> Object:
        """From a test that runs no loop."""
        return asyncio.run(super().create(resource, body))

    # objects

    def namespace(self, name: str, *, enabled: bool = True, **labels: str) -> None:
        opted = {"prestage.dev/enabled": "true"} if enabled else {}
        self.put(NAMESPACES, {"metadata": {"name": name, "labels": {**opted, **labels}}})

    def origin(self, name: str, kind: str, *, default: bool = True, cidrs: Sequence[str] = LOOPBACK, **spec: object) -> None:
        networks = {"allowedCIDRs": list(cidrs)} if cidrs else {}
        self.put(ORIGINS, {"metadata": {"name": name}, "spec": {"type": kind, "default": default, **networks, **spec}})

    def policy(self, name: str, allow: Sequence[tuple[str, str]], labels: Mapping[str, str] | None = None) -> None:
        self.put(CACHE_POLICIES, policy(name, allow, labels))

    def secret(self, namespace: str, name: str, **data: str) -> None:
        packed = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.put(SECRETS, {"metadata": {"name": name, "namespace": namespace}, "data": packed})

    def model(self, namespace: str, name: str, **spec: object) -> Object:
        return self.put(STAGED_MODELS, {"metadata": {"name": name, "namespace": namespace}, "spec": spec})

    def grant(self, owner: str, name: str, *, to: str, namespace: str, service_account: str = "*") -> None:
        spec = {"from": [{"namespace": namespace, "serviceAccount": service_account}], "to": [{"name": to}]}
        self.put(STAGED_MODEL_GRANTS, {"metadata": {"name": name, "namespace": owner}, "spec": spec})

    def node(self, name: str, **labels: str) -> None:
        self.put(NODES, {"metadata": {"name": name, "labels": labels}})

    def pool(self, name: str, labels: Mapping[str, str], mirrors: Mapping[str, str]) -> None:
        """`mirrors`: prefixes to Origins."""
        rows = [{"prefix": prefix, "originRef": {"name": origin}} for prefix, origin in mirrors.items()]
        spec = {"nodeSelector": {"matchLabels": dict(labels)}, "root": "/mnt/x", "mirrors": rows}
        self.put(STORE_POOLS, {"metadata": {"name": name}, "spec": spec})

    def config_map(self, name: str, **data: str) -> None:
        self.put(CONFIG_MAPS, {"metadata": {"name": name, "namespace": HOME}, "data": data})


def policy(name: str, allow: Sequence[tuple[str, str]], labels: Mapping[str, str] | None = None) -> Object:
    """A CachePolicy for namespaces with these labels, for all without."""
    rows = [{"originRef": {"name": origin}, "match": match} for origin, match in allow]
    selector = {"matchLabels": dict(labels)} if labels else {}
    return {"metadata": {"name": name}, "spec": {"namespaceSelector": selector, "origins": {"allow": rows}}}


@dataclass(frozen=True, slots=True)
class PodMade:
    """A pod of a Deployment on a node."""

    identity: PodIdentity
    token: str
    template: Template


@dataclass(slots=True)
class Broker:
    """A running one."""

    cluster: Cluster
    url: str
    health: str
    folder: Path
    ca: Path
    clients: list[BrokerClient]

    def client(self, token: str, *, deadline_s: float = 30.0) -> BrokerClient:
        path = self.folder / f"token-{len(self.clients)}"
        path.write_text(token)
        made = BrokerClient(BrokerSettings(self.url, path, self.ca, deadline_s))
        self.clients.append(made)
        return made

    @property
    def planner(self) -> BrokerClient:
        return self.client(self.cluster.account("prestage-planner"))

    def node(self, name: str, *, uid: str | None = None) -> BrokerClient:
        return self.client(self.cluster.account("prestage-node", node_name=name, node_uid=uid or f"uid-{name}"))

    async def plan(self, node: str, *digests: str, action: str = "Stage") -> None:
        """The planner's word."""
        rows = [{"digest": one, "action": action} for one in digests]
        body = {"metadata": {"name": node}, "spec": {"nodeUID": f"uid-{node}", "artifacts": rows}}
        await self.cluster.apply(NODE_CACHES, body, manager="prestage-planner", force=True)

    async def pod(
        self, namespace: str, node: str, *, name: str = "pod-1", workload: str = "app", account: str = "server"
    ) -> PodMade:
        """With its ReplicaSet, stored."""
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload, "uid": f"uid-{namespace}-{workload}"}
        head = {"name": f"{workload}-1", "namespace": namespace, "ownerReferences": [{**owner, "controller": True}]}
        try:
            held = await self.cluster.get(REPLICA_SETS, f"{workload}-1", namespace=namespace)
        except Missing:
            held = await self.cluster.create(REPLICA_SETS, {"metadata": head})
        controller = {"kind": "ReplicaSet", "name": f"{workload}-1", "uid": uid_of(held), "controller": True}
        labels = {"pod-template-hash": "h1"}
        metadata = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [controller]}
        made = await self.cluster.create(PODS, {"metadata": metadata, "spec": {"nodeName": node}})
        uid = uid_of(made)
        token = self.cluster.account(
            account, namespace, POD_AUDIENCE, pod_name=name, pod_uid=uid, node_name=node, node_uid=f"uid-{node}"
        )
        template = template_of(made, lambda *_: held)
        assert template is not None
        return PodMade(PodIdentity(namespace=namespace, name=name, uid=uid, service_account=account), token, template)

    async def shelved(self, count: int = 1) -> None:
        """Its view has so many Artifacts."""
        while len((await self.cluster.page(ARTIFACTS)).items) < count:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)


def wish(
    ref: str,
    *,
    namespace: str = "team-a",
    alias: str = "llama",
    uid: str = "u1",
    hash_: str = "h1",
    service_account: str = "default",
    credentials: str | None = None,
) -> ResolveRequest:
    """What the planner asks."""
    return ResolveRequest(
        namespace=namespace,
        template=Template(uid=uid, hash=hash_),
        alias=alias,
        ref=ref,
        service_account=service_account,
        credentials=credentials,
    )


@asynccontextmanager
async def running(
    cluster: Cluster, folder: Path, environ: Mapping[str, str] | None = None, access: AccessTerms | None = None
) -> AsyncIterator[Broker]:
    """A broker on loopback."""
    stop = asyncio.Event()
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    here = Address("127.0.0.1", 0)
    config = BrokerConfig(listen=here, health=here, accounts=Accounts(HOME), names=("localhost",), access=access or AccessTerms())
    task = asyncio.create_task(run(cluster, config, environ or {}, stop, started))
    clients: list[BrokerClient] = []
    try:
        task.add_done_callback(lambda _: started.done() or started.cancel())
        try:
            at = await started
        except asyncio.CancelledError:
            await task  # it says why it did not start
            raise
        published = await cluster.get(CONFIG_MAPS, "prestage-broker-ca", namespace=HOME)
        data = published["data"]
        assert isinstance(data, Mapping)
        ca = folder / "ca.crt"
        ca.write_text(str(data["ca.crt"]))
        yield Broker(cluster, f"https://localhost:{at.port}", f"http://127.0.0.1:{at.health_port}", folder, ca, clients)
    finally:
        for client in clients:
            await client.close()
        stop.set()
        await task


def play(
    cluster: Cluster,
    folder: Path,
    test: Callable[[Broker], Awaitable[None]],
    *,
    environ: Mapping[str, str] | None = None,
    access: AccessTerms | None = None,
    timeout_s: float = 60.0,
) -> None:
    """Run a test with a broker."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout_s), running(cluster, folder, environ, access) as broker:
            await test(broker)

    asyncio.run(bounded())
