"""Tenants who want what is not theirs, at the broker: each wall, and that nothing leaks where it holds."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from brokers import Broker, Cluster, PodMade, play, policy, wish
from offers import MODEL, make_bucket, put_object, repository

from prestage.api.brokerage import (
    AUDIENCE,
    POD_AUDIENCE,
    FetchesRequest,
    MountsAnswer,
    MountsRequest,
    PodIdentity,
    Refusal,
    Resolved,
    ResolveRequest,
    Template,
    WantedMount,
)
from prestage.api.nodes import ErrorClass
from prestage.cacher.errors import Busy, Denied, Full, Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import FileEntry, manifest_of
from prestage.control.broker import resolving
from prestage.control.broker.records import artifact_object
from prestage.control.broker.shelf import TRACES
from prestage.control.broker.sources import Trace
from prestage.kube.resources import ARTIFACTS, CACHE_POLICIES
from prestage.wire.broker_client import BrokerClient, refusal_of
from servers.certs import Authority
from servers.hub import Hub
from servers.versitygw import Versitygw

GATED = "hf://meta/gated@main"
NOBODY = "sha256:" + "0" * 64


@pytest.fixture
def cluster(hub: Hub) -> Cluster:
    """team-a may have the gated repository, team-b may not."""
    made = Cluster()
    for name in ("team-a", "team-b"):
        made.namespace(name, team=name)
    made.namespace("outside", enabled=False)
    repository(hub, "meta/gated", dict(MODEL), gated=True, tokens=["hf_a"])
    repository(hub, "org/public", dict(MODEL))
    made.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    made.secret("team-a", "hf-token", HF_TOKEN="hf_a")
    made.secret("team-b", "hf-token", HF_TOKEN="hf_b")
    made.secret("outside", "hf-token", HF_TOKEN="hf_a")
    return made


async def no(kind: type[PrestageError], code: str, asking: Awaitable[object]) -> str:
    """It is refused so; the message."""
    with pytest.raises(kind) as found:
        await asking
    refusal = refusal_of(found.value)
    assert refusal is not None, found.value
    assert refusal.code == code, refusal
    return str(found.value)


async def theirs(broker: Broker) -> str:
    """The digest of what team-a resolved with its token."""
    resolved = await broker.planner.resolve(wish(GATED, credentials="hf-token"))
    await broker.shelved()
    return resolved.artifact


def by(client: BrokerClient, pod: PodMade, **wanted: str) -> Awaitable[MountsAnswer]:
    """A mount of one model."""
    request = MountsRequest(pod=pod.identity, pod_token=pod.token, models=[WantedMount(**wanted)])
    return client.mounts(request)


def test_knowing_a_digest_grants_nothing(cluster: Cluster, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        digest = await theirs(broker)
        pod = await broker.pod("team-b", "n1")
        node = broker.node("n1")
        said = await no(Denied, "NoGrant", by(node, pod, alias="llama", ref=GATED, artifact=digest))
        assert "is not what hf://meta/gated@main was resolved to for namespace team-b" in said
        mine = await broker.planner.resolve(wish("hf://org/public", namespace="team-b", uid=pod.template.uid, hash_="h1"))
        await broker.shelved(2)
        await no(Denied, "NoGrant", by(node, pod, alias="llama", ref="hf://org/public", artifact=digest))
        await no(Denied, "NoGrant", by(node, pod, alias="llama", ref=GATED, artifact=mine.artifact))
        for wrong in (NOBODY, "sha256:../../x", "", digest.upper()):
            await no(Denied, "NoGrant", by(node, pod, alias="llama", ref="hf://org/public", artifact=wrong))

    play(cluster, tmp_path, test)


def test_a_gated_repository_needs_the_namespaces_own_token(cluster: Cluster, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        await theirs(broker)
        ask = broker.planner.resolve
        for secret in ({}, {"credentials": "hf-token"}):
            await no(Denied, "OriginRefused", ask(wish(GATED, namespace="team-b", uid="u9", **secret)))
        assert len((await cluster.page(ARTIFACTS)).items) == 1
        assert set(cluster.secrets_read) <= {("team-a", "hf-token"), ("team-b", "hf-token")}
        for name in ("../team-a/hf-token", "team-a/hf-token", "hf-token?x"):
            await no(Denied, "NoCredentials", ask(wish(GATED, namespace="team-b", uid="u9", credentials=name)))

    play(cluster, tmp_path, test)


def test_a_namespace_that_did_not_opt_in_has_nothing_read(cluster: Cluster, tmp_path: Path) -> None:
    cluster.model("outside", "llama", source="hf://meta/gated", credentials={"type": "Secret", "secretRef": {"name": "hf-token"}})
    cluster.grant("outside", "all", to="llama", namespace="team-b")

    async def test(broker: Broker) -> None:
        ask = broker.planner.resolve
        await no(Denied, "NotEnabled", ask(wish(GATED, namespace="outside", credentials="hf-token")))
        await no(Denied, "NotEnabled", ask(wish("ref:outside/llama", namespace="team-b")))
        assert cluster.secrets_read == []
        pod = await broker.pod("outside", "n1")
        await no(Denied, "NotEnabled", by(broker.node("n1"), pod, alias="llama", ref=GATED))

    play(cluster, tmp_path, test)


def test_a_staged_model_of_others_is_neither_used_nor_told_of_without_a_grant(cluster: Cluster, tmp_path: Path) -> None:
    credentials = {"type": "Secret", "secretRef": {"name": "hf-token"}}
    cluster.model("team-a", "llama", source="hf://meta/gated", credentials=credentials)
    cluster.grant("team-a", "wrong-name", to="other", namespace="team-b")
    cluster.grant("team-a", "wrong-account", to="llama", namespace="team-b", service_account="trusted")
    cluster.grant("team-b", "by-the-thief", to="llama", namespace="team-b")

    async def test(broker: Broker) -> None:
        ask = broker.planner.resolve
        there = await no(Denied, "NoGrant", ask(wish("ref:team-a/llama", namespace="team-b", service_account="server")))
        gone = await no(Denied, "NoGrant", ask(wish("ref:team-a/none", namespace="team-b", service_account="server")))
        assert there.replace("llama", "none") == gone, "whether it is there is its owner's"
        await no(NotFound, "NoSuchModel", ask(wish("ref:llama", namespace="team-b")))
        pod = await broker.pod("team-b", "n1")
        await no(Denied, "NoGrant", by(broker.node("n1"), pod, alias="llama", ref="ref:team-a/llama"))

    play(cluster, tmp_path, test)


def test_a_grant_leads_around_nobodys_own_wall(cluster: Cluster, tmp_path: Path) -> None:
    cluster.model("team-a", "public", source="hf://org/public")
    cluster.grant("team-a", "all", to="public", namespace="team-b")
    cluster.policy("b-may", [("huggingface", "meta/*")], {"team": "team-b"})

    async def test(broker: Broker) -> None:
        ask = broker.planner.resolve
        assert (await ask(wish("ref:public"))).files == len(MODEL)
        said = await no(Denied, "OriginNotAllowed", ask(wish("ref:team-a/public", namespace="team-b")))
        assert "CachePolicy b-may" in said

    play(cluster, tmp_path, test)


def test_another_origin_that_states_the_same_digest_is_another_artifact(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    """team-b offers other bytes under the names and digests of team-a's; its manifest is its own, and so is what is fetched."""
    repository(hub, "evil/copy", dict(MODEL))

    async def test(broker: Broker) -> None:
        digest = await theirs(broker)
        ask = broker.planner.resolve
        copied = await ask(wish("hf://evil/copy", namespace="team-b"))
        assert copied.artifact != digest
        await no(PrestageError, "AnotherArtifact", ask(wish(f"hf://evil/copy@{digest}", namespace="team-b", uid="u2")))
        # an Artifact made by hand with team-a's manifest, to be fetched from the copy
        held = await cluster.get(ARTIFACTS, digest.replace(":", "-"), namespace="team-a")
        name = digest.replace(":", "-")
        annotations = {TRACES: '[{"ref": "hf://evil/copy"}]'}
        forged = {**held, "metadata": {"name": name, "namespace": "team-b", "annotations": annotations}}
        await cluster.delete(ARTIFACTS, name, namespace="team-a")
        await cluster.create(ARTIFACTS, forged)
        await broker.shelved(2)
        await broker.plan("n1", digest)
        request = FetchesRequest(artifact=digest, paths=["model.safetensors"])
        await no(Denied, "OtherOrigin", broker.node("n1").fetches(request))

    play(cluster, tmp_path, test)


def test_who_asks_is_who_the_api_server_says(cluster: Cluster, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        digest = await theirs(broker)
        await broker.plan("n1", digest)
        strangers = {
            "forged": ("eyJ0.e9999.sig", "NotAuthenticated"),
            "no token at all": ("x", "NotAuthenticated"),
            "not even ASCII": ("eyJ.\u00e9.x".encode().decode("latin-1"), "NotAuthenticated"),
            "for others": (cluster.account("prestage-node", audience="vault", node_name="n1"), "NotAuthenticated"),
            "for pods": (cluster.account("prestage-node", audience=POD_AUDIENCE, node_name="n1"), "NotAuthenticated"),
            "a tenant's on that node": (cluster.account("server", "team-b", AUDIENCE, node_name="n1"), "NotANode"),
            "one with our name": (cluster.account("prestage-node", "team-b", AUDIENCE, node_name="n1"), "NotANode"),
            "the planner's": (cluster.account("prestage-planner", node_name="n1"), "NotANode"),
            "a person's": (cluster.token("admin", node_name="n1"), "NotANode"),
            "bound to nothing": (cluster.account("prestage-node"), "NoNodeClaim"),
        }
        for name, (token, code) in strangers.items():
            status, refusal = await asked(broker, "/v1/manifest", token, b'{"artifact": "%s"}' % digest.encode())
            assert (status, refusal.code) == (403, code), name
        for node in (broker.node("n2"), broker.node("n1", uid="a-new-node-of-that-name")):
            await no(Denied, "NotInPlan", node.manifest(digest))
            await no(Denied, "NotInPlan", node.fetches(FetchesRequest(artifact=digest, paths=["config.json"])))
        await no(Denied, "NotThePlanner", broker.node("n1").resolve(wish(GATED)))
        assert (await broker.node("n1").manifest(digest)).manifest
        await broker.plan("n1", digest, action="Release")
        await no(Denied, "NotInPlan", broker.node("n1").manifest(digest))

    play(cluster, tmp_path, test)


async def asked(broker: Broker, path: str, token: str, body: bytes) -> tuple[int, Refusal]:
    """A request by hand."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(broker.url + path, data=io.BytesIO(body), headers=headers, ssl=False) as got,
    ):
        return got.status, msgspec.json.decode(await got.read(), type=Refusal)


def test_a_pods_token_is_good_for_that_pod_on_its_node_while_it_lives(cluster: Cluster, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        digest = await theirs(broker)
        mine = await broker.pod("team-b", "n1")
        victim = await broker.pod("team-a", "n1", name="victim")
        elsewhere = await broker.pod("team-a", "n2", name="elsewhere")
        node = broker.node("n1")
        wanted = [WantedMount(alias="llama", ref=GATED, artifact=digest)]

        def ask(identity: PodIdentity, token: str) -> Awaitable[MountsAnswer]:
            return node.mounts(MountsRequest(pod=identity, pod_token=token, models=wanted))

        await ask(victim.identity, victim.token)
        await no(Denied, "AnotherPod", ask(victim.identity, mine.token))
        await no(Denied, "AnotherNode", ask(elsewhere.identity, elsewhere.token))
        unbound = cluster.account("server", "team-a", POD_AUDIENCE)
        await no(Denied, "NotBoundToAPod", ask(victim.identity, unbound))
        for_us = cluster.account("server", "team-a", AUDIENCE, pod_name="victim", pod_uid=victim.identity.uid, node_name="n1")
        await no(Denied, "NotAuthenticated", ask(victim.identity, for_us))
        await no(Denied, "NotAuthenticated", ask(victim.identity, "eyJ0.forged.sig"))
        cluster.forget(victim.token)
        await no(Denied, "NotAuthenticated", ask(victim.identity, victim.token))

    play(cluster, tmp_path, test)


def test_the_api_server_is_asked_once_for_a_token_and_rubbish_never_reaches_it_twice(cluster: Cluster, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        digest = await theirs(broker)
        await broker.plan("n1", digest)
        node = broker.node("n1")
        before = cluster.reviews
        for _ in range(5):
            await node.manifest(digest)
        assert cluster.reviews == before + 1
        for _ in range(5):
            await asked(broker, "/v1/manifest", "eyJ0.rubbish.sig", b"{}")
        assert cluster.reviews == before + 2
        await asked(broker, "/v1/manifest", "rubbish", b"{}")
        assert cluster.reviews == before + 2

    play(cluster, tmp_path, test)


def test_what_is_no_question_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        token = cluster.account("prestage-planner")
        bodies = [b"", b"[]", b"{", b'{"artifact": 1}', b"[" * 100_000, b"\xff", b'{"x": "' + b"y" * (1 << 20) + b'"}']
        for body in bodies:
            status, refusal = await asked(broker, "/v1/resolve", token, body)
            assert (status, refusal.code) == (400, "BadRequest"), body[:20]
        nothing = ResolveRequest(namespace="team-a", template=Template(uid="", hash=""), alias="a", ref=GATED)
        await no(Misconfigured, "NoTemplate", broker.planner.resolve(nothing))
        digest = await theirs(broker)
        await broker.plan("n1", digest)
        node = broker.node("n1")
        for paths, kind, code in (
            ([], Misconfigured, "TooManyPaths"),
            (["config.json"] * 257, Misconfigured, "TooManyPaths"),
            (["../../etc/passwd"], NotFound, "NoSuchFile"),
            (["config.json", "none"], NotFound, "NoSuchFile"),
        ):
            await no(kind, code, node.fetches(FetchesRequest(artifact=digest, paths=paths)))

    play(cluster, tmp_path, test)


@pytest.mark.needs("versitygw")
def test_walls_hold_whatever_the_ref_looks_like(cluster: Cluster, versitygw: Versitygw, tmp_path: Path) -> None:
    bucket = "walled"
    make_bucket(versitygw, bucket)
    put_object(versitygw, bucket, "team-a/m/model.safetensors", b"secret")
    put_object(versitygw, bucket, "team-b/m/model.safetensors", b"mine")
    cluster.origin("s3", "S3", endpoint=versitygw.url, pathStyle=True)
    cluster.origin("other", "S3", endpoint=versitygw.url, pathStyle=True, default=False)
    cluster.secret("team-b", "keys", AWS_ACCESS_KEY_ID=versitygw.access_key, AWS_SECRET_ACCESS_KEY=versitygw.secret_key)
    cluster.policy("b-may", [("s3", f"{bucket}/team-b/*"), ("huggingface", "org/*")], {"team": "team-b"})
    credentials = {"type": "Secret", "secretRef": {"name": "keys"}}
    cluster.model("team-b", "by-origin", source=f"s3://{bucket}/team-b/m/", originRef={"name": "other"}, credentials=credentials)
    cluster.model("team-b", "by-type", source=f"s3://{bucket}/team-b/m/", originRef={"name": "huggingface"})
    cluster.model("team-b", "query", source="https://example.com/file?token=x")

    async def test(broker: Broker) -> None:
        def ask(ref: str, **more: str) -> Awaitable[Resolved]:
            return broker.planner.resolve(wish(ref, namespace="team-b", credentials="keys", **more))

        assert (await ask(f"s3://{bucket}/team-b/m/")).files == 1
        await no(Denied, "OriginNotAllowed", ask(f"s3://{bucket}/team-a/m/", alias="b"))
        await no(Denied, "OriginNotAllowed", ask(f"s3://{bucket}/", alias="b"))
        await no(Denied, "OriginNotAllowed", ask(f"s3://{bucket}/team-b", alias="b"))
        await no(Denied, "OriginNotAllowed", ask(f"s3://{bucket}x/team-b/m/", alias="b"))
        for trick in ("team-b/../team-a/m/", "team-b/%2e%2e/team-a/m/", "team-b//m/", "team-b/./m/", "team-b/..%2fteam-a/m/"):
            await no(Misconfigured, "PathTrick", ask(f"s3://{bucket}/{trick}", alias="b"))
        await no(Denied, "OriginNotAllowed", ask("hf://meta/gated", alias="c"))
        await no(Misconfigured, "NoRef", ask("hf://org/../meta/gated", alias="c"))
        ask_plain = broker.planner.resolve
        await no(Denied, "OriginNotAllowed", ask_plain(wish("ref:by-origin", namespace="team-b")))
        await no(Misconfigured, "OtherOrigin", ask_plain(wish("ref:by-type", namespace="team-b")))
        await no(Misconfigured, "NotHttps", ask_plain(wish("ref:query", namespace="team-b")))
        await cluster.create(CACHE_POLICIES, policy("all", [("huggingface", "org/*")]))
        await broker.shelved()
        await no(Denied, "OriginNotAllowed", ask(f"s3://{bucket}/team-b/m/", alias="d"))
        assert (await ask(f"s3://{bucket}/team-b/m/")).files == 1

    play(cluster, tmp_path, test)


@asynccontextmanager
async def web_server(authority: Authority, host: str, answer: web.StreamResponse | None) -> AsyncIterator[str]:
    """An HTTPS server: every path gets `answer`; None: nothing, for ever."""
    seen = asyncio.Event()

    async def handle(_request: web.Request) -> web.StreamResponse:
        seen.set()
        if answer is None:
            await asyncio.sleep(60)
        raise web.HTTPFound(answer.headers["Location"]) if answer is not None else web.HTTPGone()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0, ssl_context=authority.server_context()).start()
        yield f"https://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_origins_lead_neither_to_this_machine_nor_to_metadata_services(cluster: Cluster, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls", ("127.0.0.2", "localhost"))
    cluster.config_map("web-ca", **{"ca.crt": authority.ca.read_text()})
    cluster.origin("web", "HTTPS", cidrs=["127.0.0.2/32"], caBundleRef={"name": "web-ca"})
    names = ["169.254.169.254", "localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"]
    names += ["10.0.0.1", "192.168.1.1", "[fd00:ec2::254]", "100.100.100.200", "0.0.0.0"]
    for number, (kind, source) in enumerate((("S3", "s3://bucket/m/"), ("HuggingFace", "hf://org/m"))):
        endpoint = f"http://169.254.169.254:{80 + number}"
        cluster.origin(f"meta-{number}", kind, default=False, cidrs=(), endpoint=endpoint)
        cluster.model("team-b", f"meta-{number}", source=source, originRef={"name": f"meta-{number}"})

    async def test(broker: Broker) -> None:
        ask = broker.planner.resolve
        for name in names:
            began = time.monotonic()
            said = await no(Denied, "OriginRefused", ask(wish(f"https://{name}:9/model.bin", namespace="team-b")))
            assert "may not reach" in said
            assert time.monotonic() - began < 8
        for number in (0, 1):
            assert "link-local" in await no(Denied, "OriginRefused", ask(wish(f"ref:meta-{number}", namespace="team-b")))
        for target in ("https://127.0.0.1:9/x", "https://169.254.169.254/latest/", "https://localhost:9/x"):
            moved = web.Response(headers={"Location": target})
            async with web_server(authority, "127.0.0.2", moved) as url:
                assert "may not reach" in await no(Denied, "OriginRefused", ask(wish(f"{url}/m.bin", namespace="team-b")))

    play(cluster, tmp_path, test)


def test_one_tenant_keeps_no_other_waiting(cluster: Cluster, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls", ("127.0.0.2",))
    cluster.config_map("web-ca", **{"ca.crt": authority.ca.read_text()})
    cluster.origin("web", "HTTPS", cidrs=["127.0.0.2/32"], caBundleRef={"name": "web-ca"})

    async def test(broker: Broker) -> None:
        async with web_server(authority, "127.0.0.2", None) as url:
            planner = broker.planner
            flood = [
                asyncio.create_task(planner.resolve(wish(f"{url}/{number}", namespace="team-b", uid=str(number))))
                for number in range(80)
            ]
            done, _ = await asyncio.wait(flood, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 16:
                done, _ = await asyncio.wait(flood, timeout=0.1)
            for one in done:
                assert isinstance(one.exception(), Busy)
            began = time.monotonic()
            assert (await broker.planner.resolve(wish(GATED, credentials="hf-token"))).files == len(MODEL)
            assert time.monotonic() - began < 15
            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)

    play(cluster, tmp_path, test)


def test_etcd_is_not_filled_by_one_tenant(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "ARTIFACTS_MAX", 20)
    for number in range(20):
        manifest = manifest_of("hf:https://x/y", "", [FileEntry(f"{number}", number)])
        cluster.put(ARTIFACTS, artifact_object(manifest, "team-b", "hf://x/y", Trace(ref="hf://x/y")))

    async def test(broker: Broker) -> None:
        ask = broker.planner.resolve
        said = await no(Full, "TooManyArtifacts", ask(wish("hf://org/public", namespace="team-b")))
        assert "has 20 Artifacts" in said
        assert (await ask(wish("hf://org/public"))).files == len(MODEL)

    play(cluster, tmp_path, test)


def test_refusals_have_the_status_of_their_class(cluster: Cluster, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        token = cluster.account("prestage-planner")
        body = msgspec.json.encode(wish("hf://org/none"))
        status, refusal = await asked(broker, "/v1/resolve", token, body)
        assert (status, refusal.error_class) == (404, ErrorClass.NOT_FOUND)
        async with aiohttp.ClientSession() as session:
            async with session.get(broker.health + "/metrics") as answer:
                text = await answer.text()
            async with session.get(broker.health + "/healthz") as answer:
                assert answer.status == 200
        assert 'prestage_broker_answers_total{outcome="NotFound",path="/v1/resolve"} 1.0' in text

    play(cluster, tmp_path, test)
