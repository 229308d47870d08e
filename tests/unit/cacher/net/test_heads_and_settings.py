"""What the HTTP client reads and how it decides where to connect, without a socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.client import redirected
from prestage.cacher.net.config import NetConfig, Proxy
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.head import chunk_size, content_range, parse_head
from prestage.cacher.net.ports import HttpRequest


@given(st.binary(max_size=400) | st.binary(max_size=200).map(b"HTTP/1.1 200 OK\r\n".__add__))
def test_any_bytes_are_a_head_or_garbage(raw: bytes) -> None:
    try:
        head, framing = parse_head(raw)
    except NetError as exc:
        assert exc.reason == "garbage"
    else:
        assert 100 <= head.status <= 999
        assert framing.length is None or framing.length >= 0


def test_a_head_is_read_with_its_framing() -> None:
    head, framing = parse_head(b'HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\nX-A: 1\r\nx-a: 2\r\nETag: "q"')
    assert (head.status, head.headers["x-a"], head.headers["etag"]) == (206, "1, 2", '"q"')
    assert (framing.length, framing.chunked, framing.keep_alive) == (12, False, True)


@pytest.mark.parametrize(
    ("lines", "length", "keep_alive"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3", 3, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: Keep-Alive", 3, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close", 3, False),
        (b"HTTP/1.1 200 OK", None, False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3", 0, True),
    ],
)
def test_how_a_body_ends(lines: bytes, length: int | None, keep_alive: bool) -> None:
    _, framing = parse_head(lines)
    assert (framing.length, framing.keep_alive) == (length, keep_alive)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"ICY 200 OK",
        b"HTTP/2 200",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nbad name: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"c: d",
    ],
)
def test_what_could_be_read_two_ways_is_garbage(raw: bytes) -> None:
    with pytest.raises(NetError, match="garbage"):
        parse_head(raw)


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("bytes 0-9/20", (0, 10, 20)),
        ("bytes 5-5/*", (5, 6, None)),
        ("bytes 9-0/20", None),
        ("bytes 0-20/20", None),
        ("bytes */20", None),
        ("0-9/20", None),
        ("bytes 0-9/20, bytes 1-2/20", None),
    ],
)
def test_content_range(value: str, span: tuple[int, int, int | None] | None) -> None:
    assert content_range(value) == span


@given(st.binary(max_size=40))
def test_a_chunk_size_is_a_number_or_garbage(line: bytes) -> None:
    try:
        assert chunk_size(line) >= 0
    except NetError as exc:
        assert exc.reason == "garbage"


def test_credentials_stay_behind_when_a_redirect_leaves_the_origin() -> None:
    request = HttpRequest("https://hub/a", {"Authorization": "Bearer x", "X-Y": "1"})
    assert "Authorization" in redirected(request, "/b").headers
    assert redirected(request, "/b").url == "https://hub/b"
    assert dict(redirected(request, "https://cdn/b").headers) == {"X-Y": "1"}
    assert dict(redirected(request, "https://hub:444/b").headers) == {"X-Y": "1"}


@pytest.mark.parametrize("location", ["http://hub/b", "ftp://hub/b", "file:///etc/passwd", "https://[::1/b"])
def test_a_redirect_to_something_weaker_is_refused(location: str) -> None:
    with pytest.raises(NetError, match="redirects"):
        redirected(HttpRequest("https://hub/a"), location)


@pytest.mark.parametrize(
    ("no_proxy", "host", "straight"),
    [
        ("", "host", False),
        ("*", "host", True),
        ("host", "host", True),
        ("example.com", "a.example.com", True),
        (".example.com", "a.example.com", True),
        ("*.example.com", "a.example.com", True),
        ("example.com", "badexample.com", False),
        ("10.0.0.0/8, other", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("::1", "::1", True),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(no_proxy: str, host: str, straight: bool) -> None:
    config = NetConfig.from_environ({"https_proxy": "http://user:p%40ss@proxy:3128", "NO_PROXY": no_proxy})
    expected = None if straight else Proxy("proxy", 3128, "Basic dXNlcjpwQHNz")
    assert config.proxy_for("https", host) == expected
    assert config.proxy_for("http", host) is None


def test_all_proxy_serves_both_and_a_socks_proxy_is_refused() -> None:
    assert NetConfig.from_environ({"ALL_PROXY": "proxy"}).proxy_for("http", "h") == Proxy("proxy", 8080)
    with pytest.raises(Misconfigured, match="socks5"):
        NetConfig.from_environ({"ALL_PROXY": "socks5://proxy"}).proxy_for("http", "h")


def test_a_ca_bundle_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="does not exist"):
        NetConfig.from_environ({"PRESTAGE_CA_BUNDLE": str(tmp_path / "none.pem")})
