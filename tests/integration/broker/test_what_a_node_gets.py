"""A broker over real origins: what is resolved, what is recorded, and that what a node is handed really fetches the bytes."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import pytest
from brokers import HOME, Broker, Cluster, play, wish
from brokers.fetching import fetched
from offers import MODEL, WEIGHTS, make_bucket, put_object, repository

from prestage.api.brokerage import FetchesAnswer, FetchesRequest, Resolved
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt, Denied, Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import parse_manifest
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.ports import HttpRequest
from prestage.control.broker import fetches
from prestage.kube.ports import Object, metadata_of
from prestage.kube.resources import ARTIFACTS, LEASES
from prestage.wire.broker_client import refusal_of
from servers.certs import Authority
from servers.hub import Hub
from servers.nginx import Nginx
from servers.versitygw import Versitygw

_BUCKETS = itertools.count(1)
SAFE = dict(MODEL)


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.namespace("team-a")
    made.namespace("team-b")
    made.namespace("outside", enabled=False)
    return made


@pytest.fixture
def bucket(versitygw: Versitygw, cluster: Cluster) -> str:
    """With a model; team-a has its keys, the default S3 Origin leads there."""
    name = f"broker-{next(_BUCKETS)}"
    make_bucket(versitygw, name)
    for path, content in MODEL.items():
        put_object(versitygw, name, f"models/tiny/{path}", content)
    cluster.origin("s3", "S3", endpoint=versitygw.url, pathStyle=True, region="us-east-1")
    keys = {"AWS_ACCESS_KEY_ID": versitygw.access_key, "AWS_SECRET_ACCESS_KEY": versitygw.secret_key}
    cluster.secret("team-a", "s3-keys", **keys)
    return name


async def handed(broker: Broker, resolved: Resolved, node: str = "n1") -> tuple[FetchesAnswer, dict[str, bytes]]:
    """Everything of an artifact, through the node's questions."""
    await broker.plan(node, resolved.artifact)
    client = broker.node(node)
    answer = await client.manifest(resolved.artifact)
    manifest = parse_manifest(answer.manifest.encode(), ArtifactId(resolved.artifact))
    sizes = {file.path: file.size_bytes for file in manifest.files}
    got = await client.fetches(FetchesRequest(artifact=resolved.artifact, paths=list(sizes)))
    assert [one.path for one in got.fetches] == list(sizes)
    assert got.authority == manifest.authority
    return got, await fetched(got, sizes)


async def artifact_of(cluster: Cluster, resolved: Resolved) -> Object:
    return await cluster.get(ARTIFACTS, resolved.artifact.replace(":", "-"), namespace=resolved.namespace)


@pytest.mark.needs("versitygw")
def test_an_annotation_is_resolved_recorded_and_fetched_by_presigned_urls(
    cluster: Cluster, bucket: str, versitygw: Versitygw, tmp_path: Path
) -> None:
    async def test(broker: Broker) -> None:
        ref = f"s3://{bucket}/models/tiny/"
        resolved = await broker.planner.resolve(wish(ref, credentials="s3-keys"))
        assert (resolved.namespace, resolved.files) == ("team-a", len(MODEL))
        assert resolved.size_bytes == sum(map(len, MODEL.values()))
        stored = await artifact_of(cluster, resolved)
        status, spec = stored["status"], stored["spec"]
        assert isinstance(status, Mapping)
        assert isinstance(spec, Mapping)
        assert status["templates"] == [{"uid": "u1", "hash": "h1", "alias": "llama", "ref": ref}]
        assert (spec["digest"], spec["ref"], spec.get("encoding", "Gzip")) == (
            resolved.artifact,
            ref,
            "Gzip",
        )
        await broker.shelved()
        answer, got = await handed(broker, resolved)
        assert got == MODEL
        said = json.dumps([stored, *({"url": one.url, "headers": one.headers} for one in answer.fetches)], default=str)
        assert versitygw.secret_key not in said
        for one in answer.fetches:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(one.url).query)
            assert int(query["X-Amz-Expires"][0]) <= 900
            assert set(one.headers) <= {"If-Match"}
            assert one.expires_at is not None
        assert await cluster.page(LEASES) is not None
        assert not (await cluster.page(LEASES)).items, "claims are given back"

    play(cluster, tmp_path, test)


@pytest.mark.needs("versitygw")
def test_a_presigned_url_is_good_for_its_object_and_version_only(
    cluster: Cluster, bucket: str, versitygw: Versitygw, tmp_path: Path
) -> None:
    s3 = versitygw.client()
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    put_object(versitygw, bucket, "versioned/model.safetensors", WEIGHTS)
    put_object(versitygw, bucket, "versioned/other", b"not named")

    async def test(broker: Broker) -> None:
        resolved = await broker.planner.resolve(wish(f"s3://{bucket}/versioned/model.safetensors", credentials="s3-keys"))
        put_object(versitygw, bucket, "versioned/model.safetensors", b"another version")
        await broker.shelved()
        answer, got = await handed(broker, resolved)
        assert got == {"model.safetensors": WEIGHTS}
        [one] = answer.fetches
        assert "versionId=" in one.url
        client = HttpClient()
        for changed in (one.url.replace("model.safetensors", "other"), one.url.replace("versionId=", "versionId=0")):
            assert client.fetch(HttpRequest(changed, {"Range": "bytes=0-0"})).head.status in (400, 403, 404)
        assert client.fetch(HttpRequest(one.url, {}, "DELETE")).head.status == 403
        client.close()

    try:
        play(cluster, tmp_path, test)
    finally:
        s3.close()


@pytest.mark.needs("versitygw")
def test_the_first_record_stands_whatever_happens_upstream(
    cluster: Cluster, bucket: str, versitygw: Versitygw, tmp_path: Path
) -> None:
    ref = f"s3://{bucket}/models/tiny/"

    async def test(broker: Broker) -> None:
        first = await broker.planner.resolve(wish(ref, credentials="s3-keys"))
        put_object(versitygw, bucket, "models/tiny/config.json", b'{"model_type": "moved"}')
        assert await broker.planner.resolve(wish(ref, credentials="s3-keys")) == first
        second = await broker.planner.resolve(wish(ref, credentials="s3-keys", hash_="h2"))
        assert second.artifact != first.artifact
        assert await broker.planner.resolve(wish(ref, hash_="h1")) == first, "not even credentials are needed"
        await broker.shelved(2)
        _, got = await handed(broker, second)
        assert got["config.json"] == b'{"model_type": "moved"}'

    play(cluster, tmp_path, test)


@pytest.mark.needs("versitygw")
def test_a_broker_that_starts_again_keeps_to_the_records(
    cluster: Cluster, bucket: str, versitygw: Versitygw, tmp_path: Path
) -> None:
    found: list[Resolved] = []

    async def test(broker: Broker) -> None:
        found.append(await broker.planner.resolve(wish(f"s3://{bucket}/models/tiny/", credentials="s3-keys")))
        put_object(versitygw, bucket, "models/tiny/config.json", str(len(found)).encode())

    play(cluster, tmp_path, test)
    play(cluster, tmp_path, test)
    assert found[0] == found[1]


def test_a_hub_is_followed_with_the_token_and_the_token_stays(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    repository(hub, "meta/llama", SAFE, gated=True, tokens=["hf_ok"])
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    cluster.secret("team-a", "hf-token", HF_TOKEN="hf_ok")

    async def test(broker: Broker) -> None:
        resolved = await broker.planner.resolve(wish("hf://meta/llama", credentials="hf-token"))
        assert resolved.revision == hub.commit("meta/llama")
        await broker.shelved()
        hub.log.clear()
        answer, got = await handed(broker, resolved)
        assert got == MODEL
        by_path = {one.path: one for one in answer.fetches}
        assert by_path["model.safetensors"].url.startswith(hub.cdn)
        assert by_path["config.json"].body == MODEL["config.json"], "what the hub serves itself needs the token"
        assert "hf_ok" not in repr(answer)
        assert not any(seen.authorized for seen in hub.log if seen.path.startswith("/repos/"))

    play(cluster, tmp_path, test)


def test_an_answer_that_grows_too_large_ends_early(
    cluster: Cluster, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"part-{number}.json": bytes([number]) * 1000 for number in range(10)}
    repository(hub, "meta/small", files, private=True, tokens=["hf_ok"])
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    cluster.secret("team-a", "hf-token", HF_TOKEN="hf_ok")
    monkeypatch.setattr(fetches, "_INLINE_TOGETHER", 3500)

    async def test(broker: Broker) -> None:
        resolved = await broker.planner.resolve(wish("hf://meta/small", credentials="hf-token"))
        await broker.plan("n1", resolved.artifact)
        left, got = sorted(files), dict[str, bytes | None]()
        while left:
            answer = await broker.node("n1").fetches(FetchesRequest(artifact=resolved.artifact, paths=left))
            assert [one.path for one in answer.fetches] == left[:3]
            got |= {one.path: one.body for one in answer.fetches}
            left = left[3:]
        assert got == files

    play(cluster, tmp_path, test)


def test_of_a_public_repository_the_node_gets_urls_even_with_a_token(cluster: Cluster, hub: Hub, tmp_path: Path) -> None:
    repository(hub, "org/public", SAFE, tokens=["hf_ok"])
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    cluster.secret("team-a", "hf-token", token="hf_ok")

    async def test(broker: Broker) -> None:
        for alias, secret in (("a", {}), ("b", {"credentials": "hf-token"})):
            resolved = await broker.planner.resolve(wish("hf://org/public@main", alias=alias, **secret))
            await broker.shelved()
            answer, got = await handed(broker, resolved)
            assert got == MODEL
            assert all(one.body is None and not one.headers for one in answer.fetches)

    play(cluster, tmp_path, test)


@pytest.mark.needs("nginx")
def test_an_https_file_is_fetched_by_its_url(cluster: Cluster, nginx: Nginx, authority: Authority, tmp_path: Path) -> None:
    (nginx.docroot / "m.safetensors").write_bytes(WEIGHTS)
    cluster.config_map("web-ca", **{"ca.crt": authority.ca.read_text()})
    cluster.origin("web", "HTTPS", caBundleRef={"name": "web-ca"})
    cluster.secret("team-a", "login", username="me", password="secret")
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    url = nginx.tls_url("/m.safetensors")

    async def test(broker: Broker) -> None:
        resolved = await broker.planner.resolve(wish(f"{url}#sha256={digest}"))
        await broker.shelved()
        await broker.plan("n1", resolved.artifact)
        answer = await broker.node("n1").fetches(FetchesRequest(artifact=resolved.artifact, paths=["m.safetensors"]))
        assert answer.fetches[0].url == url
        assert answer.ca == authority.ca.read_text()
        assert answer.allowed_cidrs == ["127.0.0.0/8"]
        assert resolved.size_bytes == len(WEIGHTS)
        await refused(broker, Misconfigured, "SecretHeaders", url, alias="b", credentials="login")
        await refused(broker, Misconfigured, "NoRef", f"{url}?token=x", alias="c")

    play(cluster, tmp_path, test)


async def refused(broker: Broker, kind: type[PrestageError], code: str, ref: str, **more: str) -> str:
    """The message."""
    with pytest.raises(kind) as found:
        await broker.planner.resolve(wish(ref, **more))
    refusal = refusal_of(found.value)
    assert refusal is not None
    assert refusal.code == code, refusal
    return str(found.value)


@pytest.mark.needs("versitygw")
def test_what_cannot_be_resolved_says_why(cluster: Cluster, bucket: str, hub: Hub, tmp_path: Path) -> None:
    repository(hub, "meta/gated", SAFE, gated=True, tokens=["hf_ok"])
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    cluster.secret("team-a", "empty")
    cluster.secret("team-a", "wrong", HF_TOKEN="hf_wrong", AWS_ACCESS_KEY_ID="AKNOBODY", AWS_SECRET_ACCESS_KEY="x")

    async def test(broker: Broker) -> None:
        s3 = f"s3://{bucket}/models/tiny/"
        await refused(broker, Denied, "NotEnabled", s3, namespace="outside")
        await refused(broker, Denied, "NotEnabled", s3, namespace="nowhere")
        await refused(broker, Misconfigured, "NoDefaultOrigin", "https://example.invalid/file")
        await refused(broker, Misconfigured, "NoRef", "file:///etc/passwd")
        await refused(broker, Misconfigured, "NoRef", "oci://registry/repo:tag")
        assert "there is no Secret team-a/none" in await refused(broker, Denied, "NoCredentials", s3, credentials="none")
        assert "has no key AWS_ACCESS_KEY_ID" in await refused(broker, Denied, "NoCredentials", s3, credentials="empty")
        assert "the keys of Secret team-a/wrong" in await refused(broker, Denied, "OriginRefused", s3, credentials="wrong")
        assert "gated" in await refused(broker, Denied, "OriginRefused", "hf://meta/gated")
        assert "hf_wrong" not in await refused(broker, Denied, "OriginRefused", "hf://meta/gated", credentials="wrong")
        await refused(broker, NotFound, "NoSuchSource", "hf://meta/gated@v9", credentials="wrong")
        await refused(broker, NotFound, "NoSuchSource", f"s3://{bucket}/nothing/", credentials="s3-keys")
        await refused(broker, NotFound, "NoSuchModel", "ref:none")
        assert not (await cluster.page(ARTIFACTS)).items

    play(cluster, tmp_path, test)


@pytest.mark.needs("versitygw")
def test_a_staged_model_is_resolved_once_for_all_who_name_it(
    cluster: Cluster, bucket: str, versitygw: Versitygw, tmp_path: Path
) -> None:
    source = f"s3://{bucket}/models/tiny/"
    files = {"include": ["*.safetensors", "*.json"], "exclude": ["none/*"]}
    credentials = {"type": "Secret", "secretRef": {"name": "s3-keys"}}
    made = cluster.model("team-a", "llama", source=source, files=files, credentials=credentials)
    cluster.grant("team-a", "support", to="llama", namespace="team-b", service_account="server")

    async def test(broker: Broker) -> None:
        uid = str(metadata_of(made)["uid"])
        first = await broker.planner.resolve(wish("ref:llama", uid=uid, hash_="1"))
        assert first.files == 2
        put_object(versitygw, bucket, "models/tiny/config.json", b"moved")
        mine = await broker.planner.resolve(wish("ref:llama", uid="u2"))
        granted = wish("ref:team-a/llama", namespace="team-b", uid="u3", service_account="server")
        theirs = await broker.planner.resolve(granted)
        assert first == mine == theirs
        assert theirs.namespace == "team-a"
        again = await broker.planner.resolve(wish("ref:llama", uid=uid, hash_="2"))
        assert again == first, "an edit that changes nothing of the content moves nobody"
        await broker.shelved()
        with pytest.raises(AssertionError, match="PreconditionFailed"):
            await handed(broker, first)  # config.json has moved: what was resolved pins its ETag

    play(cluster, tmp_path, test)


@pytest.mark.needs("versitygw")
def test_an_expected_digest_is_kept_to(cluster: Cluster, bucket: str, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        ref = f"s3://{bucket}/models/tiny/"
        first = await broker.planner.resolve(wish(ref, credentials="s3-keys"))
        pinned = await broker.planner.resolve(wish(f"{ref}@{first.artifact}", credentials="s3-keys", alias="b"))
        assert pinned.artifact == first.artifact
        other = f"{ref}@sha256:{'0' * 64}"
        await refused(broker, Corrupt, "AnotherArtifact", other, credentials="s3-keys", alias="c")

    play(cluster, tmp_path, test)


@pytest.mark.needs("versitygw")
def test_many_who_ask_at_once_get_one_answer(cluster: Cluster, bucket: str, tmp_path: Path) -> None:
    async def test(broker: Broker) -> None:
        planner = broker.planner
        asked = [planner.resolve(wish(f"s3://{bucket}/models/tiny/", credentials="s3-keys")) for _ in range(20)]
        assert len(set(await asyncio.gather(*asked))) == 1
        [stored] = (await cluster.page(ARTIFACTS)).items
        status = stored["status"]
        assert isinstance(status, Mapping)
        assert len(status["templates"]) == 1
        assert not [place for _, place in cluster.writes if place[1] not in (HOME, "team-a", None)]

    play(cluster, tmp_path, test)
