"""What the broker asks of the API server is what its roles give: nothing missing, nothing unused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from brokers import HOME, Broker, Cluster, play, wish
from offers import MODEL, repository

from prestage.api.brokerage import FetchesRequest, MountsRequest, WantedMount
from prestage.cacher.errors import Denied, PrestageError
from prestage.control.broker.rbac import OPTED_IN, RULES
from prestage.kube.ports import EVERYTHING, Object, Page, Resource, ResourceVersion, Selection, WatchEvent
from prestage.kube.resources import LEASES, ORIGINS, SECRETS, SERVICE_ACCOUNTS
from servers.certs import Authority
from servers.hub import Hub

Used = tuple[str, str, str]


class Watched(Cluster):
    """Keeps what the broker asked: verb, group, resource with subresource."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[Used] = set()
        self.listens = False

    def _saw(self, verb: str, resource: Resource, subresource: str | None = None) -> None:
        group = resource.group_version.rpartition("/")[0]
        if self.listens:
            self.used.add((verb, group, f"{resource.plural}/{subresource}" if subresource else resource.plural))

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None) -> Object:
        self._saw("get", resource, subresource)
        return await super().get(resource, name, namespace=namespace, subresource=subresource)

    async def page(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
    ) -> Page:
        self._saw("list", resource)
        return await super().page(resource, selection, limit=limit, rest=rest)

    async def watch(
        self, resource: Resource, selection: Selection, since: ResourceVersion, *, lasting_s: float
    ) -> AsyncGenerator[WatchEvent, None]:
        self._saw("watch", resource)
        async for event in super().watch(resource, selection, since, lasting_s=lasting_s):
            yield event

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        self._saw("create", resource, subresource)
        return await super().create(resource, body, namespace=namespace, name=name, subresource=subresource)

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        self._saw("update", resource, subresource)
        return await super().replace(resource, body, subresource=subresource)

    async def apply(
        self, resource: Resource, body: Object, *, manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        self._saw("patch", resource, subresource)
        if subresource is None:
            self._saw("create", resource)  # where it is not there
        return await super().apply(resource, body, manager=manager, force=force, subresource=subresource)

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None = None, uid: str | None = None, grace_s: int | None = None
    ) -> None:
        self._saw("delete", resource)
        await super().delete(resource, name, namespace=namespace, uid=uid, grace_s=grace_s)


def allowed() -> set[Used]:
    return {(verb, rule.api_group, rule.resource) for rule in (*RULES, *OPTED_IN) for verb in rule.verbs}


def test_every_right_is_used_and_none_is_missing(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    cluster = Watched()
    cluster.namespace("team-a")
    repository(hub, "meta/gated", dict(MODEL), gated=True, tokens=["hf_ok"])
    authority = Authority(tmp_path / "tls")
    cluster.config_map("ca", **{"ca.crt": authority.ca.read_text()})
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint, caBundleRef={"name": "ca"})
    cluster.origin("s3", "S3", endpoint="http://127.0.0.1:9", pathStyle=True)
    cluster.secret("team-a", "hf-token", HF_TOKEN="hf_ok")
    cluster.put(SERVICE_ACCOUNTS, {"metadata": {"name": "prestage-fetcher", "namespace": "team-a"}})
    account = {"name": "prestage-fetcher", "roleARN": "arn:aws:iam::123456789012:role/r"}
    cluster.model("team-a", "by-role", source="s3://bucket/m/", credentials={"type": "ServiceAccount", "serviceAccount": account})
    cluster.node("n1", gpu="h100")
    cluster.pool("h100", {"gpu": "h100"}, {"hf://": "elsewhere"})
    secret = {"type": "Secret", "secretRef": {"name": "hf-token"}}
    cluster.model("team-a", "by-name", source="hf://meta/gated", revision="main", credentials=secret)
    cluster.put(SECRETS, {"metadata": {"name": "prestage-broker-tls", "namespace": HOME}, "data": {}})

    async def test(broker: Broker) -> None:
        pod = await broker.pod("team-a", "n1")
        request = wish("hf://meta/gated@main", uid=pod.template.uid, credentials="hf-token")
        resolved = await broker.planner.resolve(request)
        await broker.planner.resolve(wish("ref:by-name", uid="second"))
        await broker.plan("n1", resolved.artifact)
        await broker.shelved()
        node = broker.node("n1")
        await node.manifest(resolved.artifact)
        await node.fetches(FetchesRequest(artifact=resolved.artifact, paths=["config.json"], mirrors=True))
        wanted = WantedMount(alias="llama", ref="hf://meta/gated@main")
        await node.mounts(MountsRequest(pod=pod.identity, pod_token=pod.token, models=[wanted]))
        async with asyncio.timeout(20):
            while not any("status" in one for one in (await cluster.page(ORIGINS)).items):
                await asyncio.sleep(0.1)
        with pytest.raises(Denied):
            await broker.planner.resolve(wish("hf://meta/gated@main", namespace="nowhere"))
        try:
            await broker.planner.resolve(wish("ref:by-role"), deadline_s=0.5)
        except PrestageError:
            assert cluster.token_requests, "STS is not there; its token was asked for"
        cluster.used.add(("get", "coordination.k8s.io", LEASES.plural))  # of a claim that somebody else holds: test_who_and_what

    async def started(_broker: Broker) -> None:
        return None

    cluster.listens = True
    play(cluster, tmp_path, test)
    cluster.listens = False
    asyncio.run(cluster.delete(SECRETS, "prestage-broker-tls", namespace=HOME))
    cluster.listens = True
    play(cluster, tmp_path, started)
    ours = {("create", "", "pods"), ("create", "apps", "replicasets"), ("get", "apps", "replicasets")}
    planners = {("patch", "prestage.dev", "nodecaches"), ("create", "prestage.dev", "nodecaches")}
    used = cluster.used - planners - (ours - allowed())
    assert used - allowed() == set(), "asked for, and not given"
    assert allowed() - used == set(), "given, and never asked for"
