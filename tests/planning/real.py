"""The planner as a process on a real API server, with its own rights and no others; a broker of the test over HTTPS."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import trustme
from aiohttp import web

from cluster.apiserver import ApiServer
from prestage.api.brokerage import Resolved, ResolveRequest
from prestage.control.admission.rbac import LEADER_RULES
from prestage.control.planning.app import LEASE
from prestage.control.planning.rbac import RULES
from prestage.kube.client import KubeApi
from prestage.kube.errors import Missing
from prestage.kube.ports import Object, Resource, name_of, uid_of
from prestage.kube.rbac import Rule, policy_rules
from prestage.kube.resources import ARTIFACTS, LEASES, NODE_CACHES, NODES, PODS, REPLICA_SETS
from prestage.kube.settings import KubeSettings
from servers.programs import free_port

TOKEN = "token-of-the-planner"


def digest_of(ref: str, revision: int) -> str:
    """What a ref is at a revision of its upstream."""
    return f"sha256:{hashlib.sha256(f'{ref} {revision}'.encode()).hexdigest()}"


class HttpsBroker:
    """Resolves any ref at its newest revision and records it in a real Artifact, as the broker does: once for each template."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self.revision = 1
        self.asked: list[ResolveRequest] = []
        self.delay_s = 0.0

    async def resolve(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        asked = msgspec.json.decode(await request.read(), type=ResolveRequest)
        self.asked.append(asked)
        await asyncio.sleep(self.delay_s)
        digest = digest_of(asked.ref, self.revision)
        name = digest.replace(":", "-")
        template = {"uid": asked.template.uid, "hash": asked.template.hash, "alias": asked.alias, "ref": asked.ref}
        metadata = {"name": name, "namespace": asked.namespace}
        spec = {"digest": digest, "files": 1, "size": 1000, "encoding": "Gzip", "manifest": "AA=="}
        kind = {"apiVersion": ARTIFACTS.group_version, "kind": ARTIFACTS.kind}
        manager = f"broker-{asked.template.uid}-{asked.template.hash}"[:128]
        await self._api.apply(ARTIFACTS, {**kind, "metadata": metadata, "spec": spec}, manager="broker")
        status = {**kind, "metadata": metadata, "status": {"templates": [template]}}
        await self._api.apply(ARTIFACTS, status, manager=manager, subresource="status", force=True)
        answer = Resolved(artifact=digest, namespace=asked.namespace, files=1, size_bytes=1000)
        return web.Response(body=msgspec.json.encode(answer))


@dataclass(slots=True)
class Place:
    """What a planner is started with."""

    server: ApiServer
    folder: Path
    namespace: str
    kubeconfig: Path
    broker_url: str
    lease_s: float = 3.0
    flags: tuple[str, ...] = ()
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @contextmanager
    def planner(self, name: str) -> Iterator[Path]:
        """Its log. Ended by SIGTERM where the test did not kill it, within 5 s."""
        log = self.folder / f"{name}.log"
        argv = [
            *(str(Path(sys.executable).parent / "prestage"), "control", "planner"),
            f"--namespace={self.namespace}",
            f"--kubeconfig={self.kubeconfig}",
            f"--broker={self.broker_url}",
            f"--broker-ca={self.folder / 'broker-ca.crt'}",
            f"--broker-token={self.folder / 'token'}",
            f"--health=127.0.0.1:{free_port()}",
            f"--lease-duration={self.lease_s}",
            *self.flags,
        ]
        environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        with log.open("ab") as out:
            process = subprocess.Popen(argv, stdout=out, stderr=out, env=environ)
        self.running[name] = process
        try:
            yield log
        finally:
            if process.poll() is None:
                process.terminate()
                assert process.wait(5) == 0, log.read_text()[-2000:]
            else:
                process.wait()

    def kill(self, name: str) -> None:
        """As a machine that is gone."""
        self.running[name].kill()
        self.running[name].wait(10)


@asynccontextmanager
async def place(
    server: ApiServer, folder: Path, namespace: str, *, rules: Sequence[Rule] = (), flags: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Place, KubeApi, HttpsBroker]]:
    """With a broker that serves, an account that may what the planner and its SERVICES say, and a client of the test's own.
    `rules`: what it may beside; `flags`: of its command."""
    async with AsyncExitStack() as ending:
        api = await ending.enter_async_context(await KubeApi.connect(KubeSettings(kubeconfig=server.kubeconfig)))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "broker-ca.crt"))
        (folder / "token").write_text(TOKEN)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        broker = HttpsBroker(api)
        application = web.Application()
        application.router.add_post("/v1/resolve", broker.resolve)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        ending.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        kubeconfig = await asyncio.to_thread(account, server, folder, namespace, (*RULES, *LEADER_RULES, *rules))
        made = Place(server, folder, namespace, kubeconfig, f"https://127.0.0.1:{runner.addresses[0][1]}", flags=flags)
        yield made, api, broker


def account(server: ApiServer, folder: Path, namespace: str, rules: Sequence[Rule]) -> Path:
    """A kubeconfig of the service account `planner` of `namespace`, which may what `rules` say."""
    subject = [{"kind": "ServiceAccount", "name": "planner", "namespace": namespace}]
    group = "rbac.authorization.k8s.io"
    objects: list[dict[str, object]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "planner", "namespace": namespace}}
    ]
    for kind, name, where in (("ClusterRole", f"planner-{namespace}", {}), ("Role", "planner", {"namespace": namespace})):
        said = policy_rules(rules, namespaced=kind == "Role")
        metadata = {"name": name, **where}
        objects.append({"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": said})
        ref = {"apiGroup": group, "kind": kind, "name": name}
        bound: dict[str, object] = {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": ref,
            "subjects": subject,
        }
        objects.append(bound)
    server.kubectl("apply", "-f", "-", stdin="\n---\n".join(msgspec.json.encode(one).decode() for one in objects))
    token = server.kubectl("create", "token", "planner", "-n", namespace, "--duration=1h").strip()
    return server.authority.token_kubeconfig(folder / "planner.kubeconfig", server.url, token)


async def until(look: Callable[[], Awaitable[object]], *, seconds: float = 60.0, log: Path | None = None) -> None:
    """Until it is truthy."""
    try:
        async with asyncio.timeout(seconds):
            while not await look():
                await asyncio.sleep(0.02)
    except TimeoutError:
        said = await asyncio.to_thread(log.read_text) if log is not None else ""
        asked = getattr(look, "func", look)
        raise AssertionError(f"{getattr(asked, '__name__', asked)}: not so within {seconds} s\n{said[-3000:]}") from None


async def listed(api: KubeApi, node: str) -> set[str] | None:
    """What is staged on a node by its NodeCache; None: there is none."""
    try:
        found = await api.get(NODE_CACHES, node)
    except Missing:
        return None
    spec = cast("dict[str, object]", found["spec"])
    entries = cast("list[dict[str, object]]", spec.get("artifacts") or [])
    return {str(one["digest"]) for one in entries if one["action"] == "Stage"}


async def make_node(api: KubeApi, name: str) -> Object:
    """Without a kubelet: what a planner looks at."""
    made = await api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    room = {"cpu": "64", "memory": "512Gi", "pods": "110"}
    await api.patch(NODES, name, {"status": {"allocatable": room, "capacity": room}}, subresource="status")
    await api.patch(NODES, name, {"spec": {"taints": None}})  # not-ready, which nobody takes away here
    return made


async def make_replica_set(api: KubeApi, namespace: str, name: str, *, ref: str, deployment_uid: str) -> Object:
    """Of a Deployment that only its UID tells of: no controller runs here."""
    labels = {"app": "web", "pod-template-hash": name}
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": deployment_uid, "controller": True}
    pod = {"containers": [{"name": "c", "image": "none"}]}
    body = {
        "metadata": {"name": f"web-{name}", "namespace": namespace, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": {"model.prestage.dev/llama": ref}}, "spec": pod},
        },
    }
    return await api.create(REPLICA_SETS, {"apiVersion": "apps/v1", "kind": "ReplicaSet", **body})


async def make_pod(api: KubeApi, of: Object, name: str, *, node: str) -> Object:
    """Of a ReplicaSet, bound to a node as the scheduler does it."""
    metadata = cast("dict[str, object]", of["metadata"])
    template = cast("dict[str, dict[str, object]]", cast("dict[str, object]", of["spec"])["template"])
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name_of(of), "uid": uid_of(of), "controller": True}
    head = {**template["metadata"], "name": name, "namespace": metadata["namespace"], "ownerReferences": [owner]}
    spec = {**template["spec"], "automountServiceAccountToken": False, "serviceAccountName": "planner"}
    made = await api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": spec})
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    await api.create(PODS, binding, namespace=str(metadata["namespace"]), name=name, subresource="binding")
    return made


async def is_there(api: KubeApi, resource: Resource, name: str) -> bool:
    """An object of the cluster."""
    try:
        await api.get(resource, name)
    except Missing:
        return False
    return True


async def stages(api: KubeApi, node: str, *wanted: str) -> bool:
    """Exactly those."""
    return await listed(api, node) == set(wanted)


async def holder_of(api: KubeApi, namespace: str) -> str:
    """Who leads."""
    lease = await api.get(LEASES, LEASE, namespace=namespace)
    return str(cast("dict[str, object]", lease["spec"])["holderIdentity"])
