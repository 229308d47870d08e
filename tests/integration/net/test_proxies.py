"""Our HTTP client through a proxy: absolute form for http, a tunnel for https, and straight where NO_PROXY says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import HttpRequest
from servers.certs import Authority
from servers.hostile import Hostile
from servers.proxy import Proxy

DATA = b"through the proxy" * 1000


@pytest.fixture
def plain() -> Iterator[Hostile]:
    with Hostile({"/f.bin": DATA}) as server:
        yield server


@pytest.fixture
def secure(authority: Authority) -> Iterator[Hostile]:
    with Hostile({"/f.bin": DATA}, tls=authority.server_context(), name="localhost") as server:
        yield server


def fetch(url: str, **environ: str) -> bytes:
    """One fetch by a client that reads `environ`, lower-case names."""
    client = HttpClient(NetConfig.from_environ(environ))
    try:
        return client.fetch(HttpRequest(url), timeout_s=10).body
    finally:
        client.close()


def test_http_goes_to_the_proxy_in_absolute_form(plain: Hostile, forward_proxy: Proxy) -> None:
    assert fetch(plain.url("/f.bin"), http_proxy=forward_proxy.url) == DATA
    assert forward_proxy.asked == [f"GET {plain.url('/f.bin')}"]


def test_https_goes_through_a_tunnel(secure: Hostile, forward_proxy: Proxy, authority: Authority) -> None:
    assert fetch(secure.url("/f.bin"), https_proxy=forward_proxy.url, PRESTAGE_CA_BUNDLE=str(authority.ca)) == DATA
    assert forward_proxy.asked == [f"CONNECT localhost:{secure.port}"]


def test_the_proxy_resolves_names_that_we_cannot(plain: Hostile, forward_proxy: Proxy) -> None:
    forward_proxy.reroute["origin.invalid"] = plain.port
    assert fetch("http://origin.invalid/f.bin", all_proxy=forward_proxy.url) == DATA
    assert plain.gets()[0].headers["host"] == "origin.invalid"


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "10.0.0.0/8, 127.0.0.0/8", "example.org 127.0.0.1"])
def test_no_proxy_goes_straight(plain: Hostile, forward_proxy: Proxy, no_proxy: str) -> None:
    assert fetch(plain.url("/f.bin"), http_proxy=forward_proxy.url, no_proxy=no_proxy) == DATA
    assert forward_proxy.asked == []


def test_no_proxy_for_others_does_not_apply_here(plain: Hostile, forward_proxy: Proxy) -> None:
    assert fetch(plain.url("/f.bin"), http_proxy=forward_proxy.url, no_proxy="example.org,10.0.0.0/8,27.0.0.1") == DATA
    assert len(forward_proxy.asked) == 1


def test_an_address_has_no_parent_domain(plain: Hostile, forward_proxy: Proxy) -> None:
    assert fetch(plain.url("/f.bin"), http_proxy=forward_proxy.url, no_proxy="0.0.1,1") == DATA
    assert len(forward_proxy.asked) == 1


def test_the_proxys_password_is_used_and_goes_no_further(plain: Hostile, secure: Hostile, authority: Authority) -> None:
    with Proxy(user="u", password="p%40w") as proxy:
        url = proxy.url.replace("p%40w", "p%2540w")
        assert fetch(plain.url("/f.bin"), http_proxy=url) == DATA
        assert fetch(secure.url("/f.bin"), https_proxy=url, PRESTAGE_CA_BUNDLE=str(authority.ca)) == DATA
        assert proxy.refused == 0
    for server in (plain, secure):
        assert "proxy-authorization" not in server.gets()[0].headers


def test_a_proxy_that_refuses_is_named_without_its_password(secure: Hostile, authority: Authority) -> None:
    with Proxy(user="u", password="right") as proxy:
        url = proxy.url.replace("right", "wrong-secret")
        with pytest.raises(NetError) as failed:
            fetch(secure.url("/f.bin"), https_proxy=url, PRESTAGE_CA_BUNDLE=str(authority.ca))
        assert (failed.value.reason, failed.value.retryable) == ("proxy", False)
        assert "407" in str(failed.value)
        assert "wrong-secret" not in str(failed.value)
        assert proxy.refused == 1


def test_a_proxy_that_is_down_for_now_may_be_tried_again(secure: Hostile, forward_proxy: Proxy, authority: Authority) -> None:
    forward_proxy.status = 503
    with pytest.raises(NetError) as failed:
        fetch(secure.url("/f.bin"), https_proxy=forward_proxy.url, PRESTAGE_CA_BUNDLE=str(authority.ca))
    assert (failed.value.reason, failed.value.retryable) == ("proxy", True)
