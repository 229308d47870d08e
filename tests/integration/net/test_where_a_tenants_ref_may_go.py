"""A client with a tenant's policy against names and servers that want it inside: loopback is "inside", 127.0.0.2 is "outside"."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stores.namespaces import in_a_mount_namespace
from transfers import UrlOrigin

from prestage.cacher.errors import Denied
from prestage.cacher.manifest import FileEntry, manifest_of
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.errors import AddressRefused
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Stager, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.ports import Fatal
from servers import faults
from servers.hostile import Hostile
from servers.hub import Hub
from servers.proxy import Proxy

SECRET, PUBLIC = b"the node's own secret", b"weights" * 1000
OUTSIDE = "127.0.0.2"
SPELLINGS = ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "017700000001", "127.1", "0x7f.1", "[::ffff:127.0.0.1]", "0"]
LOCAL = ["[::1]", "0.0.0.0", "[::]", "localhost", "169.254.169.254", "[fe80::1]"]


@pytest.fixture
def inside() -> Iterator[Hostile]:
    with Hostile({"/f.bin": SECRET}) as server:
        yield server


@pytest.fixture
def outside() -> Iterator[Hostile]:
    with Hostile({"/f.bin": PUBLIC}, host=OUTSIDE) as server:
        yield server


@pytest.fixture
def tenant() -> Iterator[HttpClient]:
    client = HttpClient(NetConfig(connect_timeout_s=5), AddressPolicy.tenant(allow=[OUTSIDE]))
    yield client
    client.close()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[list[str]]], list[str]]:
    """Makes a name resolve to each list of addresses in turn, the last one for good; returns what was asked."""
    plain = socket.getaddrinfo

    def says(name: str, answers: list[list[str]]) -> list[str]:
        asked = list[str]()

        def answer(host: str, port: int, *rest: object, flags: int = 0, **settings: object) -> list[object]:
            if host != name or flags & socket.AI_NUMERICHOST:
                return plain(host, port, *rest, flags=flags, **settings)  # type: ignore[arg-type,misc,return-value] # as they came
            asked.append(host)
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", answer)
        return asked

    return says


@pytest.mark.parametrize("host", [*SPELLINGS, *LOCAL])
def test_this_machine_is_refused_in_every_spelling(host: str, inside: Hostile, tenant: HttpClient) -> None:
    with pytest.raises(AddressRefused) as refused:
        tenant.open(HttpRequest(f"http://{host}:{inside.port}/f.bin"))
    assert refused.value.reason == "forbidden"
    assert inside.connections == 0


@pytest.mark.parametrize("host", [spelling for spelling in SPELLINGS if spelling != "[::ffff:127.0.0.1]"])
def test_the_spellings_do_lead_there_where_nothing_is_refused(host: str, inside: Hostile) -> None:
    client = HttpClient()
    assert client.fetch(HttpRequest(f"http://{host}:{inside.port}/f.bin")).body == SECRET
    client.close()


def test_what_is_allowed_is_fetched(outside: Hostile, tenant: HttpClient) -> None:
    assert tenant.fetch(HttpRequest(outside.url("/f.bin"))).body == PUBLIC


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_inside_is_refused(status: int, inside: Hostile, outside: Hostile, tenant: HttpClient) -> None:
    outside.always.append(faults.Redirect(inside.url("/f.bin"), status))
    with pytest.raises(AddressRefused):
        tenant.fetch(HttpRequest(outside.url("/f.bin")))
    assert inside.connections == 0


def test_a_redirect_inside_is_refused_at_the_last_hop_too(inside: Hostile, outside: Hostile, tenant: HttpClient) -> None:
    outside.faults += [faults.Redirect(outside.url(f"/{hop}")) for hop in range(3)]
    outside.faults.append(faults.Redirect(f"http://0x7f.1:{inside.port}/f.bin"))
    with pytest.raises(AddressRefused):
        tenant.fetch(HttpRequest(outside.url("/f.bin")))
    assert len(outside.requests) == 4
    assert inside.connections == 0


def test_a_name_that_changes_its_mind_is_checked_for_every_connection(
    inside: Hostile, tenant: HttpClient, resolver: Callable[[str, list[list[str]]], list[str]]
) -> None:
    with Hostile({"/f.bin": PUBLIC}, host=OUTSIDE) as outside:
        outside.always.append(faults.closes)
        asked = resolver("rebind.example", [[OUTSIDE], ["127.0.0.1"]])
        url = f"http://rebind.example:{outside.port}/f.bin"
        assert tenant.fetch(HttpRequest(url)).body == PUBLIC
        with pytest.raises(AddressRefused) as refused:
            tenant.fetch(HttpRequest(url))
    assert (refused.value.host, refused.value.kind) == ("rebind.example", "loopback")
    assert asked == ["rebind.example"] * 2, "one look-up for each connection: what was checked is what is connected to"


def test_of_a_names_addresses_only_those_allowed_are_tried(
    inside: Hostile, outside: Hostile, tenant: HttpClient, resolver: Callable[[str, list[list[str]]], list[str]]
) -> None:
    resolver("both.example", [["127.0.0.1", OUTSIDE]])
    assert tenant.fetch(HttpRequest(f"http://both.example:{outside.port}/f.bin")).body == PUBLIC


@pytest.mark.needs("root", "mount")
def test_a_real_resolver_that_rebinds_leads_nowhere_inside(tmp_path: Path) -> None:
    done = in_a_mount_namespace(f"""
set -e
echo 'nameserver 127.53.53.53
options timeout:2 attempts:2' > {tmp_path}/resolv.conf
mount --bind {tmp_path}/resolv.conf /etc/resolv.conf
exec {sys.executable} -c '
import itertools, json
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.net.errors import AddressRefused
from prestage.cacher.net.ports import HttpRequest
from servers import faults
from servers.hostile import Hostile
from servers.names import Names
turns = itertools.cycle([["127.0.0.2"], ["127.0.0.1"]])
with Names(lambda name: next(turns)) as names, Hostile(dict([("/f", b"public")]), host="127.0.0.2") as outside:
    outside.always.append(faults.closes)
    client, seen = HttpClient(policy=AddressPolicy.tenant(allow=["127.0.0.2"])), []
    for _ in range(6):
        try:
            seen.append(client.fetch(HttpRequest(f"http://rebind.example:{{outside.port}}/f")).body.decode())
        except AddressRefused as exc:
            seen.append(exc.kind)
    client.close()
    print(json.dumps([seen, names.asked]))
'
""")
    seen, asked = json.loads(done.stdout)
    assert seen == ["public", "loopback"] * 3
    assert asked == ["rebind.example"] * 6


def test_an_address_to_connect_to_is_checked_like_any(inside: Hostile, outside: Hostile, tenant: HttpClient) -> None:
    with pytest.raises(AddressRefused):
        tenant.open(HttpRequest("http://93.184.216.34/f.bin", connect_to=("localhost", inside.port)))
    assert inside.connections == 0
    reply = tenant.fetch(HttpRequest("http://bucket.example/f.bin", connect_to=(OUTSIDE, outside.port)))
    assert reply.body == PUBLIC


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_is_not_handed_to_a_proxy_that_nobody_said_to_trust(scheme: str, inside: Hostile, forward_proxy: Proxy) -> None:
    client = HttpClient(NetConfig(proxies={"all": forward_proxy.url}), AddressPolicy.tenant())
    with pytest.raises(AddressRefused, match="known to the proxy only"):
        client.open(HttpRequest(f"{scheme}://internal.example/f.bin"))
    assert forward_proxy.asked == []


def test_a_trusted_proxy_gets_names_and_no_address_of_this_machine(inside: Hostile, forward_proxy: Proxy) -> None:
    client = HttpClient(NetConfig(proxies={"all": forward_proxy.url}), AddressPolicy.tenant(trust_proxies=True))
    forward_proxy.reroute["hub.example"] = inside.port
    assert client.fetch(HttpRequest("http://hub.example/f.bin")).body == SECRET
    for host in SPELLINGS:
        with pytest.raises(AddressRefused):
            client.open(HttpRequest(f"http://{host}:{inside.port}/f.bin"))
    assert forward_proxy.asked == ["GET http://hub.example/f.bin"]
    client.close()


def test_past_the_proxy_the_address_is_checked(inside: Hostile, forward_proxy: Proxy) -> None:
    config = NetConfig(proxies={"all": forward_proxy.url, "no": "127.0.0.1,localhost"})
    client = HttpClient(config, AddressPolicy.tenant(trust_proxies=True))
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(AddressRefused, match="loopback"):
            client.open(HttpRequest(f"http://{host}:{inside.port}/f.bin"))
    assert inside.connections == 0


def test_a_web_servers_redirect_inside_is_denied_and_nothing_is_staged(
    inside: Hostile, outside: Hostile, tenant: HttpClient, tmp_path: Path
) -> None:
    outside.choose = lambda request: faults.Redirect(inside.url("/f.bin"))
    ref = parse_ref(outside.url("/f.bin"))
    open_client = HttpClient()
    with Store.open(tmp_path / "store", own=True) as store, Engine() as engine:
        stager = Stager(store, engine, open_client)
        environ = {"HOME": "/nonexistent"}
        with pytest.raises(Denied, match=r"'127\.0\.0\.1' is at a loopback address") as denied:
            stager.stage(Wish(ref), open_origin(ref, client=tenant, environ=environ), client=tenant)
        assert denied.value.hint is not None
        assert "PRESTAGE_TENANT_ALLOW" in denied.value.hint
        assert (inside.connections, store.list()) == (0, [])
        staged = stager.stage(Wish(ref), open_origin(ref, client=open_client, environ=environ))
        assert (staged.path / "f.bin").read_bytes() == SECRET
    open_client.close()


def test_a_stage_fetches_under_the_policy_it_came_with(outside: Hostile, tenant: HttpClient, tmp_path: Path) -> None:
    """The stager's own client may go anywhere: were it taken, the bytes would come from inside."""
    ref = parse_ref(outside.url("/f.bin"))
    with Store.open(tmp_path / "store", own=True) as store, Engine() as engine:
        origin = open_origin(ref, client=tenant, environ={"HOME": "/nonexistent"})
        own = HttpClient(policy=AddressPolicy.tenant())
        staged = Stager(store, engine, own).stage(Wish(ref), origin, client=tenant)
        assert (staged.path / "f.bin").read_bytes() == PUBLIC
        store.evict(staged.artifact)
        with pytest.raises(Denied, match="loopback"):
            Stager(store, engine, own).stage(Wish(ref), origin)


def test_a_hub_that_sends_us_inside_is_denied(hub: Hub, inside: Hostile) -> None:
    """The hub's answers are fine, its files lie behind a redirect to an address that is not allowed."""
    (hub.root / "org" / "tiny").mkdir(parents=True)
    (hub.root / "org" / "tiny" / "model.safetensors").write_bytes(b"\0" * 64)
    hub.reload()
    client = HttpClient(policy=AddressPolicy.tenant(allow=["127.0.0.1"]))
    origin = open_origin(parse_ref("hf://org/tiny"), client=client, environ={"HF_ENDPOINT": hub.endpoint, "HF_HOME": "/none"})
    manifest = origin.resolve(Selection())
    strict = HttpClient(policy=AddressPolicy.tenant())
    source = OriginSource(origin, strict, manifest, manifest.files[0], "lane")
    with pytest.raises(Fatal) as fatal:
        source.open(0, 64)
    assert isinstance(fatal.value.error, Denied)
    client.close()


def test_a_range_request_inside_is_fatal_with_the_policys_words(inside: Hostile, tenant: HttpClient) -> None:
    file = FileEntry("f.bin", len(SECRET))
    source = OriginSource(UrlOrigin(inside.url("/f.bin")), tenant, manifest_of("test:", "", [file]), file, "lane")
    with pytest.raises(Fatal) as fatal:
        source.open(0, len(SECRET))
    assert isinstance(fatal.value.error, Denied)
    assert "f.bin: '127.0.0.1' is at a loopback address" in str(fatal.value.error)


def test_a_tenant_stages_no_file_of_the_node(tenant: HttpClient, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:x")
    ref = parse_ref((tmp_path / "shadow").as_uri())
    with pytest.raises(Denied, match="a file of the node"):
        open_origin(ref, client=tenant, environ={})
    assert open_origin(ref, client=HttpClient(), environ={}).resolve(Selection()).files
