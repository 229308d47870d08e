"""The client against peers that drip, hang or break: every call ends in bounded time, and what came before is not lost."""

from __future__ import annotations

import gzip
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.client import MAX_IDLE, HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.connection import Connection
from prestage.cacher.net.dialing import Dialer, Endpoint
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import HttpRequest
from servers.certs import Authority
from servers.listening import Listening

pytestmark = pytest.mark.timeout(30)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


@pytest.fixture
def client(authority: Authority) -> Iterator[HttpClient]:
    client = HttpClient(NetConfig(ca_bundle=authority.ca, idle_timeout_s=0.4, connect_timeout_s=0.6, slow_timeout_s=0.8))
    yield client
    client.close()


def answers(raw: bytes, then: Callable[[socket.socket], None] = lambda connection: None) -> Callable[[socket.socket, int], None]:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(raw)
        then(connection)

    return handle


def drips(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.1)


def waits(connection: socket.socket) -> None:
    connection.recv(1)


def failure(call: Callable[[], object]) -> NetError:
    began = time.monotonic()
    with pytest.raises(NetError) as failed:
        call()
    assert time.monotonic() - began < 20, "every wait ends long before the test's own deadline"
    return failed.value


def test_a_head_that_drips_is_a_stall(client: HttpClient) -> None:
    with Listening(answers(b"HTTP/1.1 200 OK\r\nX: ", drips)) as server:
        assert failure(lambda: client.open(HttpRequest(f"http://{server.authority}/"))).reason == "stalled"


def test_a_body_that_drips_inside_the_idle_timeout_is_a_stall(client: HttpClient) -> None:
    with Listening(answers(HEAD, drips)) as server:
        body = client.open(HttpRequest(f"http://{server.authority}/"))
        room = memoryview(bytearray(100_000))
        began = time.monotonic()
        assert 1 <= body.readinto(room) < 100
        assert time.monotonic() - began < 20
        assert failure(lambda: body.readinto(room)).reason == "stalled"
        body.close()


def test_time_that_the_caller_takes_does_not_make_a_body_slow(client: HttpClient) -> None:
    with Listening(answers(HEAD + bytes(100_000), waits)) as server:
        body = client.open(HttpRequest(f"http://{server.authority}/"))
        assert body.readinto(memoryview(bytearray(10))) == 10
        time.sleep(1.0)
        assert body.readinto(memoryview(bytearray(100_000))) == 99_990
        body.close()


def test_a_handshake_that_drips_is_a_stall(client: HttpClient) -> None:
    with Listening(answers(b"\x16\x03\x03\x40\x00", drips)) as server:
        assert failure(lambda: client.open(HttpRequest(f"https://{server.authority}/"))).reason == "stalled"


def test_a_proxy_that_drips_is_a_stall() -> None:
    with Listening(answers(b"HTTP/1.1 200 OK\r\nX: ", drips)) as server:
        config = NetConfig(proxies={"https": f"http://{server.authority}"}, connect_timeout_s=0.6)
        assert failure(lambda: HttpClient(config).open(HttpRequest("https://localhost:1/"))).reason == "stalled"


def test_a_resolver_that_hangs_is_no_longer_waited_for(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    back, plain = threading.Event(), socket.getaddrinfo

    def hangs(*arguments: object, flags: int = 0, **settings: object) -> object:
        if flags & socket.AI_NUMERICHOST:
            return plain(*arguments, flags=flags, **settings)  # type: ignore[arg-type,misc] # as they came
        back.wait(20)
        raise socket.gaierror("gone")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    try:
        assert failure(lambda: client.open(HttpRequest("http://slow.example/"))).reason == "dns"
    finally:
        back.set()


def test_an_address_that_is_given_goes_past_the_proxy() -> None:
    first = list[bytes]()

    def note(connection: socket.socket, number: int) -> None:
        first.append(connection.recv(1))

    with Listening(note) as server:
        config = NetConfig(proxies={"https": "http://127.0.0.1:1"}, connect_timeout_s=1)
        endpoint = Endpoint("https", "hub.example", 443, ("127.0.0.1", server.port))
        failure(lambda: Dialer(config).connect(endpoint, ssl.create_default_context()))
    assert first == [b"\x16"]  # a TLS record, no CONNECT


@pytest.mark.parametrize("proxy", ["http://user:pa/55word@proxy:3128", "http://user:55word@proxy:many", "http://[::1:55word"])
def test_a_proxy_url_that_cannot_be_read_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        NetConfig(proxies={"https": proxy}).proxy_for("https", "hub")
    assert "55word" not in str(refused.value) + str(refused.value.__cause__)


@pytest.mark.parametrize("url", ["http://host:99999/", "http://host:many/", "http://[::1/"])
def test_a_url_that_cannot_be_read_is_garbage(url: str, client: HttpClient) -> None:
    error = failure(lambda: client.open(HttpRequest(url)))
    assert (error.reason, error.retryable) == ("garbage", False)


def test_a_ca_bundle_that_holds_no_certificate_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("nothing")
    with pytest.raises(Misconfigured, match="cannot be read"):
        NetConfig(ca_bundle=bundle).tls_context()


def test_an_abort_that_comes_late_leaves_the_next_body_alone(client: HttpClient) -> None:
    def twice(connection: socket.socket, number: int) -> None:
        for _ in range(2):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            time.sleep(0.1)  # the body is still on its way when the head was read
            connection.sendall(b"ok")

    with Listening(twice) as server:
        request, room = HttpRequest(f"http://{server.authority}/"), memoryview(bytearray(10))
        late = client.open(request)
        assert late.readinto(room) == 2
        late.close()
        body = client.open(request)
        late.abort()
        assert body.readinto(room) == 2
        body.close()
        assert server.accepted == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_came_before_a_stall_is_handed_over(scheme: str, client: HttpClient, authority: Authority) -> None:
    tls = authority.server_context() if scheme == "https" else None
    with Listening(answers(HEAD + bytes(50_000), waits), tls=tls) as server:
        body = client.open(HttpRequest(f"{scheme}://localhost:{server.port}/"))
        room = memoryview(bytearray(100_000))
        assert body.readinto(room) == 50_000
        assert failure(lambda: body.readinto(room)).reason == "stalled"
        body.close()


def test_trailers_without_end_are_garbage(client: HttpClient) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"

    def babbles(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"X: y\r\n" * 1000)

    with Listening(answers(raw, babbles)) as server:
        body = client.open(HttpRequest(f"http://{server.authority}/"))
        assert failure(lambda: body.readinto(memoryview(bytearray(10)))).reason == "garbage"
        body.close()


def test_many_small_chunks_cost_few_reads(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = b"".join(b"64\r\n" + bytes([number % 256]) * 100 + b"\r\n" for number in range(5000))
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX: y\r\n\r\n"
    reads, plain = list[int](), Connection.recv_into

    def counted(connection: Connection, view: memoryview, *, whole: bool) -> int:
        reads.append(len(view))
        return plain(connection, view, whole=whole)

    monkeypatch.setattr(Connection, "recv_into", counted)
    with Listening(answers(raw, waits)) as server:
        reply = client.fetch(HttpRequest(f"http://{server.authority}/"))
    assert reply.body == b"".join(bytes([number % 256]) * 100 for number in range(5000))
    assert len(reads) < 500


def test_a_packed_answer_that_was_cut_is_garbage(client: HttpClient) -> None:
    packed = gzip.compress(bytes(range(256)) * 100)[:-20]
    with Listening(answers(b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed)) as server:
        assert failure(lambda: client.fetch(HttpRequest(f"http://{server.authority}/"))).reason == "garbage"


def test_a_connection_without_a_deadline_waits_only_for_silence() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection, room = Connection(ours), memoryview(bytearray(1))
        theirs.sendall(b"xyz")
        connection.until(time.monotonic() - 1)
        assert failure(lambda: connection.recv_into(room, whole=False)).reason == "stalled"
        connection.until(math.inf)
        assert connection.recv_into(room, whole=False) == 1


def test_a_client_that_has_met_many_hosts_does_not_stay_connected_to_them() -> None:
    def keeps(connection: socket.socket, number: int) -> None:
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with Listening(keeps) as server, closing(HttpClient()) as client:

        def ask(number: int) -> int:
            client.fetch(HttpRequest(f"http://host-{number}.test/", connect_to=(server.host, server.port)))
            return server.accepted

        for number in range(MAX_IDLE + 40):
            assert ask(number) == number + 1
        deadline = time.monotonic() + 10
        while server.connected > MAX_IDLE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.connected == MAX_IDLE
        assert ask(MAX_IDLE + 39) == MAX_IDLE + 40, "the last one used was dropped"
        assert ask(0) == MAX_IDLE + 41
