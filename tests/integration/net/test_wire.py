"""Our HTTP client against a server that is wrong on demand, over plain sockets and TLS: what comes back is right or an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import HttpRequest
from servers import faults
from servers.answers import Served
from servers.certs import Authority
from servers.hostile import Hostile

DATA = bytes(range(256)) * 4096
IDLE_S = 0.5


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Hostile]:
    tls = authority.server_context() if request.param == "https" else None
    with Hostile({"/f.bin": DATA}, tls=tls, name="localhost" if tls else None) as server:
        yield server


@pytest.fixture
def client(authority: Authority) -> Iterator[HttpClient]:
    client = HttpClient(NetConfig(ca_bundle=authority.ca, idle_timeout_s=IDLE_S, connect_timeout_s=5))
    yield client
    client.close()


def ranged(server: Hostile, start: int, stop: int) -> HttpRequest:
    return HttpRequest(server.url("/f.bin"), {"Range": f"bytes={start}-{stop - 1}"})


def read(client: HttpClient, request: HttpRequest) -> bytes:
    """The body as the engine reads it: into one buffer until the end."""
    body = client.open(request)
    try:
        room = memoryview(bytearray(len(DATA) + 100))
        done = 0
        while count := body.readinto(room[done:]):
            done += count
        return bytes(room[:done])
    finally:
        body.close()


def reason(client: HttpClient, request: HttpRequest) -> str:
    with pytest.raises(NetError) as failed:
        read(client, request)
    return failed.value.reason


def test_a_range_arrives_whole_and_the_connection_is_used_again(server: Hostile, client: HttpClient) -> None:
    assert read(client, ranged(server, 1000, 500_000)) == DATA[1000:500_000]
    assert read(client, HttpRequest(server.url("/f.bin"))) == DATA
    assert read(client, ranged(server, 0, 1)) == DATA[:1]
    assert server.connections == 1


def test_a_body_that_was_left_early_costs_its_connection(server: Hostile, client: HttpClient) -> None:
    body = client.open(HttpRequest(server.url("/f.bin")))
    assert body.readinto(memoryview(bytearray(10))) == 10
    body.close()
    assert read(client, ranged(server, 0, 100)) == DATA[:100]
    assert server.connections == 2


def test_a_connection_that_went_stale_is_replaced_unnoticed(server: Hostile, client: HttpClient) -> None:
    server.faults.append(faults.leaves_unsaid)
    for _ in range(2):
        assert read(client, ranged(server, 0, 100)) == DATA[:100]
        time.sleep(0.1)
    assert server.connections == 2
    assert len(server.gets()) == 2


def test_a_server_that_says_close_is_believed(server: Hostile, client: HttpClient) -> None:
    server.faults.append(faults.closes)
    assert read(client, ranged(server, 0, 100)) == DATA[:100]
    assert read(client, ranged(server, 0, 100)) == DATA[:100]
    assert server.connections == 2


@pytest.mark.parametrize("fault", [faults.chunked, faults.http10, faults.interim], ids=["chunked", "http10", "interim"])
def test_odd_framing_is_read_right(server: Hostile, client: HttpClient, fault: faults.Fault) -> None:
    server.faults.append(fault)
    assert read(client, ranged(server, 5, 300_005)) == DATA[5:300_005]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.Garbage(), "garbage"),
        (faults.Garbage(b"HTTP/2.0 200 OK\r\n\r\n"), "garbage"),
        (faults.Garbage(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), "garbage"),
        (faults.Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "garbage"),
        (faults.Garbage(b"HTTP/1.1 200 OK\r\nContent-Le"), "garbage"),
        (faults.two_lengths, "garbage"),
        (faults.broken_chunks, "garbage"),
        (faults.HugeHeader(), "garbage"),
        (faults.endless_headers, "garbage"),
        (faults.Cut(1000), "short"),
        (faults.WrongLength(7), "short"),
        (faults.Cut(-1), "reset"),
        (faults.Reset(-1), "reset"),
        (faults.Stall(-1), "stalled"),
        (faults.Stall(0), "stalled"),
        (faults.Stall(1000), "stalled"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_is_not_the_promised_answer_is_an_error(
    server: Hostile, client: HttpClient, fault: faults.Fault, expected: str
) -> None:
    server.faults.append(fault)
    started_s = time.monotonic()
    assert reason(client, ranged(server, 0, 500_000)) == expected
    assert time.monotonic() - started_s < 5
    assert read(client, ranged(server, 0, 500_000)) == DATA[:500_000]


@pytest.mark.timeout(20)
def test_interim_answers_without_end_are_an_error(server: Hostile, client: HttpClient) -> None:
    server.faults.append(faults.endless_interim)
    assert reason(client, ranged(server, 0, 100)) == "garbage"


def test_a_reset_in_the_body_is_an_error_after_what_came(server: Hostile, client: HttpClient) -> None:
    server.faults.append(faults.Reset(200_000))
    assert reason(client, ranged(server, 0, 500_000)) in ("reset", "short")


def test_more_bytes_than_promised_are_never_handed_out(server: Hostile, client: HttpClient) -> None:
    server.faults.append(faults.WrongLength(-10))
    assert read(client, ranged(server, 0, 1000)) == DATA[:990]
    assert read(client, ranged(server, 0, 1000)) == DATA[:1000]
    assert server.connections == 2


def test_a_slow_body_is_no_stalled_one(server: Hostile, client: HttpClient) -> None:
    server.faults.append(faults.Drip(rate_bytes_per_s=20_000))
    assert read(client, ranged(server, 0, 30_000)) == DATA[:30_000]


def test_a_blocked_read_can_be_ended_from_another_thread(server: Hostile, authority: Authority) -> None:
    server.faults.append(faults.Stall(10))
    client = HttpClient(NetConfig(ca_bundle=authority.ca, idle_timeout_s=30))
    body = client.open(HttpRequest(server.url("/f.bin")))
    ender = threading.Timer(0.2, body.abort)
    ender.start()
    started_s = time.monotonic()
    room = memoryview(bytearray(len(DATA)))
    assert body.readinto(room) <= 10
    with pytest.raises(NetError):
        body.readinto(room)
    assert time.monotonic() - started_s < 5
    ender.join()
    body.close()
    client.close()


def test_a_small_answer_is_followed_and_unpacked(server: Hostile, client: HttpClient) -> None:
    server.put("/there", Served(b"x" * 5000, '"e"'))
    server.faults += [faults.Redirect("/there"), faults.gzipped]
    reply = client.fetch(HttpRequest(server.url("/f.bin")))
    assert (reply.body, reply.url) == (b"x" * 5000, server.url("/there"))


def test_a_redirect_loop_ends(server: Hostile, client: HttpClient) -> None:
    server.always.append(faults.Redirect())
    with pytest.raises(NetError) as failed:
        client.fetch(HttpRequest(server.url("/f.bin")))
    assert (failed.value.reason, failed.value.retryable) == ("redirects", False)
    assert len(server.gets()) == 6


def test_a_small_answer_that_is_large_is_refused(server: Hostile, client: HttpClient) -> None:
    with pytest.raises(NetError) as failed:
        client.fetch(HttpRequest(server.url("/f.bin")), limit_bytes=100_000)
    assert failed.value.reason == "too-large"
    server.put("/bomb", b"\0" * 50_000_000)
    server.faults.append(faults.gzipped)
    with pytest.raises(NetError) as failed:
        client.fetch(HttpRequest(server.url("/bomb")), limit_bytes=1_000_000)
    assert failed.value.reason == "too-large"


@pytest.mark.timeout(20)
def test_a_small_answer_that_drips_ends_with_its_time(server: Hostile, client: HttpClient) -> None:
    server.faults.append(faults.Drip(rate_bytes_per_s=1000))
    started_s = time.monotonic()
    with pytest.raises(NetError) as failed:
        client.fetch(HttpRequest(server.url("/f.bin")), timeout_s=1)
    assert failed.value.reason == "stalled"
    assert time.monotonic() - started_s < 4


def test_credentials_stay_with_the_origin_that_they_were_meant_for(server: Hostile, client: HttpClient) -> None:
    secret = {"Authorization": "Bearer s", "Cookie": "c=1"}
    with Hostile({"/there": b"elsewhere"}) as other:
        server.choose = lambda request: faults.Redirect("/g") if request.path == "/f.bin" else None
        server.put("/g", b"same")
        assert client.fetch(HttpRequest(server.url("/f.bin"), secret)).body == b"same"
        assert server.gets("/g")[0].headers["authorization"] == "Bearer s"
        server.choose = lambda request: faults.Redirect(other.url("/there"))
        if server.url("/").startswith("https"):
            with pytest.raises(NetError, match="https to http"):
                client.fetch(HttpRequest(server.url("/f.bin"), secret))
            assert other.gets() == []
        else:
            assert client.fetch(HttpRequest(server.url("/f.bin"), secret)).body == b"elsewhere"
            assert {"authorization", "cookie"}.isdisjoint(other.gets()[0].headers)


def test_head_has_a_length_and_no_body(server: Hostile, client: HttpClient) -> None:
    body = client.open(HttpRequest(server.url("/f.bin"), method="HEAD"))
    assert body.head.headers["content-length"] == str(len(DATA))
    assert body.readinto(memoryview(bytearray(10))) == 0
    body.close()
    assert read(client, ranged(server, 0, 10)) == DATA[:10]
    assert server.connections == 1


def test_nobody_home_is_told_apart_from_no_such_name(client: HttpClient) -> None:
    with Hostile() as gone:
        url = gone.url("/f.bin")
    assert reason(client, HttpRequest(url)) == "refused"
    assert reason(client, HttpRequest("http://no-such-host.invalid/f")) == "dns"


def test_a_header_cannot_smuggle_another(server: Hostile, client: HttpClient) -> None:
    assert reason(client, HttpRequest(server.url("/f.bin"), {"X": "a\r\nY: b"})) == "garbage"
    assert server.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    client = HttpClient(NetConfig(ca_bundle=authority.ca))
    with Hostile({"/f.bin": DATA}, tls=stranger.server_context(), name="localhost") as server:
        with pytest.raises(NetError) as failed:
            client.open(HttpRequest(server.url("/f.bin")))
        assert (failed.value.reason, failed.value.retryable) == ("tls", False)
        assert server.requests == []
    client.close()


def test_a_certificate_of_another_host_is_refused(authority: Authority, tmp_path: Path) -> None:
    narrow = Authority(tmp_path / "narrow", names=("elsewhere.example",))
    client = HttpClient(NetConfig(ca_bundle=narrow.ca))
    with Hostile({"/f.bin": DATA}, tls=narrow.server_context(), name="localhost") as server:
        with pytest.raises(NetError) as failed:
            client.open(HttpRequest(server.url("/f.bin")))
        assert (failed.value.reason, server.requests) == ("tls", [])
        elsewhere = HttpRequest(f"https://elsewhere.example:{server.port}/f.bin", connect_to=("127.0.0.1", server.port))
        assert read(client, elsewhere) == DATA
        assert server.gets()[0].headers["host"] == f"elsewhere.example:{server.port}"
    client.close()


def test_a_server_that_speaks_no_tls_is_an_error(client: HttpClient) -> None:
    with Hostile({"/f.bin": DATA}) as plain:
        assert reason(client, HttpRequest(f"https://localhost:{plain.port}/f.bin")) in ("tls", "stalled", "reset")


def test_ipv6_addresses_work(client: HttpClient) -> None:
    try:
        server = Hostile({"/f.bin": DATA}, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")
    with server:
        assert read(client, ranged(server, 3, 30)) == DATA[3:30]
        assert server.gets()[0].headers["host"] == f"[::1]:{server.port}"


def test_many_threads_share_a_client(server: Hostile, client: HttpClient) -> None:
    wrong: list[int] = []

    def fetch(index: int) -> None:
        for step in range(5):
            start = (index * 5 + step) * 1000
            if read(client, ranged(server, start, start + 50_000)) != DATA[start : start + 50_000]:
                wrong.append(start)

    threads = [threading.Thread(target=fetch, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(server.gets()) == 40
    assert server.connections <= 8
