"""Images at real registries: resolved with their namespace's pull Secrets; what a node is handed pulls that one and no more."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest
from brokers import LOOPBACK, Broker, Cluster, play, wish
from layers import Made, index, simple

from prestage.api.brokerage import FetchesRequest, ImageAnswer, ImageRequest, Resolved
from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.ports import HttpRequest
from prestage.control.broker.image_places import read_logins
from prestage.control.broker.refusals import No
from prestage.kube.resources import ARTIFACTS, ORIGINS
from prestage.wire.broker_client import refusal_of
from servers.fixtures import require
from servers.registry import PASSWORD, USER, Registry

pytestmark = pytest.mark.needs("docker-registry")
AMD64 = "linux/amd64"


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Registry]]:
    require("docker-registry")
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(Registry(tmp_path_factory.mktemp(kind), password=kind == "basic", tokens=kind == "bearer"))
            for kind in ("open", "basic", "bearer")
        }


@pytest.fixture
def cluster(registries: Mapping[str, Registry]) -> Cluster:
    """team-a has the login of both guarded registries, team-b a wrong one."""
    made = Cluster()
    for name in ("team-a", "team-b"):
        made.namespace(name)
    for kind, registry in registries.items():
        made.origin(kind, "OCI", default=False, endpoint=f"http://{registry.host}")
    hosts = [registries[kind].host for kind in ("basic", "bearer")]
    for name, password in (("team-a", PASSWORD), ("team-b", "wrong")):
        auths = {host: {"username": USER, "password": password} for host in hosts}
        made.secret(name, "regcred", **{".dockerconfigjson": json.dumps({"auths": auths})})
    return made


async def resolved(broker: Broker, name: str, namespace: str = "team-a", secrets: tuple[str, ...] = ("regcred",)) -> Resolved:
    asked = wish(f"oci://{name}", namespace=namespace, alias="image/amd64/0")
    return await broker.planner.resolve(msgspec.structs.replace(asked, platform=AMD64, pull_secrets=secrets))


async def handed(broker: Broker, artifact: str, node: str = "n1", *, mirrors: bool = False) -> ImageAnswer:
    return await broker.node(node).image(ImageRequest(artifact=artifact, platform=AMD64, mirrors=mirrors))


def got(url: str, answer: ImageAnswer) -> int:
    """The status of a GET with what was handed."""
    client = HttpClient()
    try:
        headers = {"Authorization": answer.authorization} if answer.authorization else {}
        return client.fetch(HttpRequest(url, headers), redirects=0).head.status
    finally:
        client.close()


@pytest.mark.parametrize("kind", ["open", "bearer"])
def test_a_node_pulls_what_its_nodecache_lists_and_nothing_else(
    kind: str, registries: Mapping[str, Registry], cluster: Cluster, tmp_path: Path
) -> None:
    registry, made, other = registries[kind], simple(seed=3), simple(seed=4)
    name = registry.push("team/app", "v1", made)
    registry.push("team/other", "v1", other)

    async def test(broker: Broker) -> None:
        found = await resolved(broker, name)
        assert found.size_bytes > made.layer_bytes
        with pytest.raises(Denied) as refused:
            await handed(broker, found.artifact)
        assert refusal_of(refused.value) is not None
        await broker.plan("n1", found.artifact)
        await broker.shelved()
        answer = await handed(broker, found.artifact)
        assert answer.name == f"{name}@{made.digest}"
        assert (answer.base, answer.is_mirror) == (f"http://{registry.host}/v2/team/app", False)
        assert (answer.authorization or "").startswith("Bearer " if kind == "bearer" else "")
        assert PASSWORD not in str(answer)
        assert got(f"{answer.base}/blobs/{made.layers[0]}", answer) == 200
        if kind == "bearer":
            assert got(f"http://{registry.host}/v2/team/other/blobs/{other.layers[0]}", answer) == 401
            assert got(f"{answer.base}/blobs/{made.layers[0]}", msgspec.structs.replace(answer, authorization=None)) == 401
        with pytest.raises(Denied):
            await handed(broker, found.artifact, "n2")
        await broker.plan("n1", found.artifact, action="Release")
        with pytest.raises(Denied):
            await handed(broker, found.artifact)

    play(cluster, tmp_path, test)


def test_a_password_is_handed_only_where_the_origin_says_so(
    registries: Mapping[str, Registry], cluster: Cluster, tmp_path: Path
) -> None:
    registry = registries["basic"]
    name = registry.push("team/basic", "v1", simple(seed=5))

    async def test(broker: Broker) -> None:
        found = await resolved(broker, name)
        await broker.plan("n1", found.artifact)
        await broker.shelved()
        with pytest.raises(Misconfigured, match="takes passwords only") as refused:
            await handed(broker, found.artifact)
        assert PASSWORD not in str(refused.value)
        spec = {"type": "OCI", "endpoint": f"http://{registry.host}", "allowedCIDRs": [*LOOPBACK], "handPasswords": True}
        await cluster.apply(ORIGINS, {"metadata": {"name": "basic"}, "spec": spec}, manager="an-operator", force=True)
        answer = None
        while answer is None:  # until the broker has seen it; the test is bounded by `play`
            with suppress(Misconfigured):
                answer = await handed(broker, found.artifact)
        assert (answer.authorization or "").startswith("Basic ")

    play(cluster, tmp_path, test)


def test_who_may_not_pull_has_nothing_resolved(registries: Mapping[str, Registry], cluster: Cluster, tmp_path: Path) -> None:
    registry = registries["bearer"]
    name = registry.push("team/private", "v1", simple(seed=6))

    async def test(broker: Broker) -> None:
        for namespace, secrets in (("team-b", ("regcred",)), ("team-a", ()), ("team-a", ("not-there",))):
            with pytest.raises(Denied) as refused:
                await resolved(broker, name, namespace, secrets)
            assert "wrong" not in str(refused.value)
        assert not (await cluster.page(ARTIFACTS)).items
        with pytest.raises(NotFound):
            await resolved(broker, f"{registry.host}/team/private:v2")

    play(cluster, tmp_path, test)


def test_no_origin_no_image_and_walls_hold(registries: Mapping[str, Registry], cluster: Cluster, tmp_path: Path) -> None:
    registry = registries["open"]
    name = registry.push("team/walled", "v1", simple(seed=7))
    cluster.policy("walls", [("open", "team-a/*")])

    async def test(broker: Broker) -> None:
        for image, code in ((name, "OriginNotAllowed"), ("elsewhere.example/app:1", "NoOriginForImages")):
            with pytest.raises(PrestageError) as refused:
                await resolved(broker, image, secrets=())
            refusal = refusal_of(refused.value)
            assert refusal is not None
            assert refusal.code == code

    play(cluster, tmp_path, test)


def test_the_image_of_a_platform_is_one_artifact_and_no_file_of_a_store(
    registries: Mapping[str, Registry], cluster: Cluster, tmp_path: Path
) -> None:
    one: Made = simple(seed=8)
    name = registries["open"].push("team/multi", "v1", index({"amd64": one, "arm64": simple(seed=9)}))

    async def test(broker: Broker) -> None:
        found = await resolved(broker, name, secrets=())
        await broker.plan("n1", found.artifact)
        await broker.shelved()
        [stored] = (await cluster.page(ARTIFACTS)).items
        assert one.digest in json.dumps(stored, default=str), "the namespace's own object has its manifest's digest"
        with pytest.raises(Misconfigured):
            await broker.node("n1").fetches(FetchesRequest(artifact=found.artifact, paths=["config"]))
        with pytest.raises(Misconfigured):
            await broker.node("n1").manifest(found.artifact)
        again = await resolved(broker, name, secrets=())
        assert again.artifact == found.artifact

    play(cluster, tmp_path, test)


def test_a_mirror_of_the_nodes_pool_comes_first_and_is_asked_without_a_login(
    registries: Mapping[str, Registry], cluster: Cluster, tmp_path: Path
) -> None:
    made = simple(seed=10)
    name = registries["bearer"].push("team/mirrored", "v1", made)
    registries["open"].push("team/mirrored", "v1", made)
    host = registries["bearer"].host
    cluster.origin("near", "OCI", default=False, endpoint=f"http://{registries['open'].host}", mirrorOf={"name": "bearer"})
    cluster.node("n1", gpu="h100")
    cluster.pool("gpus", {"gpu": "h100"}, {f"oci://{host}/": "near"})

    async def test(broker: Broker) -> None:
        found = await resolved(broker, name)
        await broker.plan("n1", found.artifact)
        await broker.shelved()
        near = await handed(broker, found.artifact, mirrors=True)
        assert (near.is_mirror, near.authorization) == (True, None)
        assert near.base == f"http://{registries['open'].host}/v2/team/mirrored"
        own = await handed(broker, found.artifact)
        assert (own.is_mirror, own.authority) == (False, near.authority)

    play(cluster, tmp_path, test)


def test_a_mirror_without_its_authorities_or_that_is_slow_is_passed_over(
    registries: Mapping[str, Registry], cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prestage.control.broker.images.MIRROR_S", 0.5)
    name = registries["bearer"].push("team/near", "v1", simple(seed=11))
    host = registries["bearer"].host
    of = {"name": "bearer"}
    bare = {"name": "nobody-made-it"}
    cluster.origin("bare", "OCI", default=False, endpoint="https://near.example", caBundleRef=bare, mirrorOf=of)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        cluster.origin("deaf", "OCI", default=False, endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}", mirrorOf=of)
        cluster.node("n1", gpu="h100")
        cluster.pool("gpus", {"gpu": "h100"}, {f"oci://{host}/": "bare", f"oci://{host}/team/": "deaf"})

        async def test(broker: Broker) -> None:
            found = await resolved(broker, name)
            await broker.plan("n1", found.artifact)
            await broker.shelved()
            answer = await handed(broker, found.artifact, mirrors=True)
            assert (answer.is_mirror, answer.base) == (False, f"http://{host}/v2/team/near")

        play(cluster, tmp_path, test)


@pytest.mark.parametrize("data", [None, {}, {".dockerconfigjson": 1}, {".dockerconfigjson": "%%"}])
def test_what_is_no_pull_secret_is_refused_by_name(data: object) -> None:
    with pytest.raises(No) as refused:
        read_logins("Secret team/x", data)
    assert "Secret team/x" in str(refused.value)
