"""Images and layers of a real registry, without a containerd: open, with a password, with tokens, over TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from layers import index, mixed, sha256, simple

from prestage.cacher.errors import Corrupt, Denied, NotFound, PrestageError
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.retry import RetryRules
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from prestage.images.descriptors import Descriptor, Platform
from prestage.images.fetching import LayerFetcher
from prestage.images.incoming import Wanted
from prestage.images.logins import Login
from prestage.images.names import parse_oci
from prestage.images.registry import Registry as Asked
from servers.certs import Authority
from servers.hostile import Hostile
from servers.registry import PASSWORD, USER, Registry

pytestmark = pytest.mark.needs("docker-registry")
AMD64 = Platform("linux", "amd64")
RULES = RetryRules(budget_s=2)


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with closing(HttpClient()) as one:
        yield one


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Registry]]:
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(Registry(tmp_path_factory.mktemp(kind), password=kind == "basic", tokens=kind == "bearer"))
            for kind in ("open", "basic", "bearer")
        }


def asked_of(name: str, client: HttpClient, login: Login | None = None) -> Asked:
    return Asked(parse_oci(f"oci://{name}"), Asker(client, RULES), login)


def test_a_tag_and_a_digest_are_the_same_image(registries: dict[str, Registry], client: HttpClient) -> None:
    made = mixed()
    name = registries["open"].push("t/mixed", "v1", made)
    by_tag = asked_of(name, client).resolve(AMD64)
    by_digest = asked_of(f"{name.rpartition(':')[0]}@{made.digest}", client).resolve(AMD64)
    assert by_tag.roots == by_digest.roots == (made.digest,)
    assert by_tag.artifact == by_digest.artifact
    assert [layer.blob.digest for layer in by_tag.layers] == list(made.layers)


def test_an_index_leads_to_the_platforms_own_image(registries: dict[str, Registry], client: HttpClient) -> None:
    images = {"arm64": simple(seed=1), "amd64": simple(seed=2)}
    made = index(images)
    name = registries["open"].push("t/index", "v1", made)
    assert asked_of(name, client).resolve(AMD64).roots == (made.digest, images["amd64"].digest)
    assert asked_of(name, client).resolve(Platform("linux", "arm64", "v8")).roots == (made.digest, images["arm64"].digest)
    with pytest.raises(NotFound, match="no linux/riscv64"):
        asked_of(name, client).resolve(Platform("linux", "riscv64"))


def test_what_is_not_there_is_said_in_one_line(registries: dict[str, Registry], client: HttpClient) -> None:
    for name in ("t/none:v1", f"t/none@sha256:{'0' * 64}"):
        with pytest.raises(NotFound, match="has no such image"):
            asked_of(f"{registries['open'].host}/{name}", client).resolve(AMD64)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_the_right_login_gets_in_and_no_other(kind: str, registries: dict[str, Registry], client: HttpClient) -> None:
    made = simple(layers=2)
    name = registries[kind].push("team/private", "v1", made)
    assert asked_of(name, client, Login(USER, PASSWORD)).resolve(AMD64).roots == (made.digest,)
    for login in (None, Login(USER, "wrong"), Login("eve", PASSWORD)):
        with pytest.raises(Denied) as caught:
            asked_of(name, client, login).resolve(AMD64)
        assert PASSWORD not in str(caught.value)
        assert made.digest not in str(caught.value)


def test_one_token_for_pulling_from_that_repository_is_enough(registries: dict[str, Registry], client: HttpClient) -> None:
    registry = registries["bearer"]
    assert registry.issuer is not None
    name = registry.push("team/tokens", "v1", simple())
    registry.issuer.asked.clear()
    asked_of(name, client, Login(USER, PASSWORD)).resolve(AMD64)
    assert registry.issuer.asked == ["repository:team/tokens:pull"]


@pytest.mark.parametrize("kind", ["open", "basic", "bearer"])
def test_a_layer_comes_in_ranges_and_in_order(kind: str, registries: dict[str, Registry], client: HttpClient) -> None:
    registry, made = registries[kind], simple(layers=1, size_bytes=17 << 20, seed=5, kind="none")
    asked = asked_of(registry.push("team/large", "v1", made), client, Login(USER, PASSWORD) if kind != "open" else None)
    (blob,) = asked.resolve(AMD64).blobs
    with Engine(Limits(connections_start=2, connections_max=2)) as engine:
        data = asyncio.run(read_all(LayerFetcher(engine, client, asked), blob))
    assert sha256(data) == blob.digest
    ranges = [one for one in registry.asked(client="prestage") if one.status == 206 and one.path.endswith(blob.digest)]
    assert len([one for one in ranges if one.bytes > 1]) == 2, "pieces of 16 MiB"


async def read_all(fetcher: LayerFetcher, blob: Descriptor, offset: int = 0) -> bytes:
    found = bytearray()
    async with fetcher.fetch([Wanted(blob, offset)]) as incoming:
        while offset + len(found) < blob.size_bytes:
            found += await incoming.read(blob, offset + len(found), 1 << 20)
    return bytes(found)


def test_a_registry_with_tls_is_spoken_to_by_the_authority_that_is_named(tmp_path: Path, authority: Authority) -> None:
    made = simple()
    with Registry(tmp_path / "tls", authority=authority) as registry:
        name = parse_oci(f"oci://{registry.push('t/app', 'v1', made)}")
        with closing(HttpClient(NetConfig(ca_bundle=authority.ca))) as client:
            assert Asked(name, Asker(client, RULES), plain_http=False).resolve(AMD64).roots == (made.digest,)
        with closing(HttpClient()) as client, pytest.raises(PrestageError, match="tls"):
            Asked(name, Asker(client, RULES), plain_http=False).resolve(AMD64)


def test_a_tenants_ref_does_not_reach_addresses_that_the_policy_forbids(registries: dict[str, Registry]) -> None:
    name = registries["open"].push("t/policy", "v1", simple())
    with closing(HttpClient(policy=AddressPolicy.tenant())) as client, pytest.raises(Denied, match="loopback"):
        asked_of(name, client).resolve(AMD64)


def test_a_registry_that_lies_is_not_believed(hostile: Hostile, client: HttpClient) -> None:
    made = simple()
    config = str(json.loads(made.top)["config"]["digest"])
    host = hostile.url("").removeprefix("http://")
    hostile.put(f"/v2/app/manifests/{made.digest}", made.top + b" ")
    with pytest.raises(Corrupt, match="manifest is not what its digest says"):
        asked_of(f"{host}/app@{made.digest}", client).resolve(AMD64)
    hostile.put("/v2/app/manifests/v1", made.top)
    hostile.put(f"/v2/app/blobs/{config}", made.blobs[config] + b" ")
    with pytest.raises(Corrupt, match="config is not what its digest says"):
        asked_of(f"{host}/app:v1", client).resolve(AMD64)
    hostile.put(f"/v2/app/blobs/{config}", made.blobs[config])
    assert asked_of(f"{host}/app:v1", client).resolve(AMD64).roots == (sha256(made.top),)
