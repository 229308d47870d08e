"""The hostile server is right by default and wrong exactly as told: else every test that leans on it proves nothing."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from servers import faults
from servers.hostile import Hostile

DATA = bytes(range(256)) * 1000


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile({"/f.bin": DATA}) as server:
        yield server


def ask(server: Hostile, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("GET", "/f.bin", headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def until_silent(connection: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(TimeoutError):
        while part := connection.recv(65536):
            yield part


def raw(server: Hostile, limit_bytes: int = 4096) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"GET /f.bin HTTP/1.1\r\nHost: h\r\n\r\n")
        said = b""
        while len(said) < limit_bytes and (part := connection.recv(65536)):
            said += part
        return said


def test_serves_the_whole_file_and_ranges_of_it(server: Hostile) -> None:
    answer, body = ask(server)
    assert (answer.status, body) == (200, DATA)
    for asked, expected in {"100-199": DATA[100:200], "255990-": DATA[255990:], "-5": DATA[-5:]}.items():
        answer, body = ask(server, Range=f"bytes={asked}")
        assert (answer.status, body) == (206, expected)
    assert answer.headers["Content-Range"] == f"bytes 255995-255999/{len(DATA)}"
    assert ask(server, Range="bytes=256000-")[0].status == 416


def test_heeds_the_validators_of_the_version_it_serves(server: Hostile) -> None:
    etag = ask(server)[0].headers["ETag"]
    assert ask(server, If_Match=etag)[0].status == 200
    assert ask(server, If_None_Match=etag)[0].status == 304
    server.put("/f.bin", DATA[:10])
    assert ask(server, If_Match=etag)[0].status == 412
    assert ask(server)[1] == DATA[:10]


def test_keeps_connections_and_says_how_many_requests_overlapped(server: Hostile) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    for _ in range(3):
        connection.request("GET", "/f.bin")
        assert connection.getresponse().read() == DATA
    connection.close()
    assert (server.connections, server.peak_requests, len(server.gets("/f.bin"))) == (1, 1, 3)
    server.always.append(faults.Delay(1.0))  # a busy machine begins threads late
    threads = [threading.Thread(target=ask, args=(server,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.peak_requests == 4


def test_a_script_is_used_up_in_order_and_then_forgotten(server: Hostile) -> None:
    server.faults += [*faults.storm(503, 2, retry_after="1"), faults.proper, faults.Status(429)]
    answers = [ask(server)[0] for _ in range(5)]
    assert [answer.status for answer in answers] == [503, 503, 200, 429, 200]
    assert answers[0].headers["Retry-After"] == "1"


def test_a_choice_sees_the_request(server: Hostile) -> None:
    server.choose = lambda request: faults.Status(500) if request.range == (7, 9) else None
    assert ask(server, Range="bytes=7-8")[0].status == 500
    assert ask(server, Range="bytes=7-9")[0].status == 206


def test_ignores_range_when_told(server: Hostile) -> None:
    server.faults.append(faults.ignores_range)
    answer, body = ask(server, Range="bytes=5-9")
    assert (answer.status, body, answer.headers["Content-Range"]) == (200, DATA, None)


@pytest.mark.parametrize("fault", [faults.Cut(1000), faults.WrongLength(5), faults.Cut(0)])
def test_a_body_can_end_before_its_length(server: Hostile, fault: faults.Fault) -> None:
    server.faults.append(fault)
    with pytest.raises(http.client.IncompleteRead):
        ask(server)


@pytest.mark.parametrize("after", [-1, 0, 1000])
def test_a_connection_can_be_reset(server: Hostile, after: int) -> None:
    server.faults.append(faults.Reset(after))
    with pytest.raises(ConnectionResetError):
        ask(server)


def test_a_stall_lasts_until_the_client_leaves_or_the_server_closes(server: Hostile) -> None:
    server.faults += [faults.Stall(1000), faults.Stall(-1)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.3) as connection:
        connection.sendall(b"GET /f.bin HTTP/1.1\r\n\r\n")
        received = b"".join(until_silent(connection))
        assert received.partition(b"\r\n\r\n")[2] == DATA[:1000]
    with pytest.raises(TimeoutError):
        urlopen(server.url("/f.bin"), timeout=0.3)
    started_s = time.monotonic()
    server.close()
    assert time.monotonic() - started_s < 2


def test_a_body_can_be_compressed_corrupt_or_misplaced(server: Hostile) -> None:
    server.faults += [faults.gzipped, faults.Flip(100), faults.WrongContentRange(shift=1), faults.OtherRange(by=3)]
    answer, body = ask(server, Range="bytes=0-99")
    assert (answer.headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", DATA[:100])
    _, body = ask(server, Range="bytes=50-149")
    assert [at for at, (a, b) in enumerate(zip(body, DATA[50:150], strict=True)) if a != b] == [50]
    answer, body = ask(server, Range="bytes=10-19")
    assert (answer.headers["Content-Range"], body) == (f"bytes 11-20/{len(DATA)}", DATA[10:20])
    answer, body = ask(server, Range="bytes=10-19")
    assert (answer.headers["Content-Range"], body) == (f"bytes 10-16/{len(DATA)}", DATA[10:17])


def test_a_loop_redirects_to_itself(server: Hostile) -> None:
    server.faults.append(faults.Redirect())
    answer, _ = ask(server)
    assert (answer.status, answer.headers["Location"]) == (302, "/f.bin")


def test_framing_can_be_odd_but_right(server: Hostile) -> None:
    server.faults += [faults.chunked, faults.http10, faults.interim]
    answer, body = ask(server)
    assert (answer.headers["Transfer-Encoding"], answer.headers["Content-Length"], body) == ("chunked", None, DATA)
    answer, body = ask(server)
    assert (answer.version, answer.headers["Content-Length"], body) == (10, None, DATA)
    assert raw(server).startswith(b"HTTP/1.1 103 Early Hints\r\n")


def test_framing_can_be_wrong(server: Hostile) -> None:
    server.faults += [faults.Garbage(), faults.two_lengths, faults.broken_chunks, faults.HugeHeader(200_000)]
    assert not raw(server).startswith(b"HTTP/")
    assert raw(server).count(b"Content-Length") == 2
    assert b"\r\nZZZ\r\n" in raw(server, 1 << 20)
    assert b"a" * 200_000 in raw(server, 400_000)


def test_headers_can_go_on_for_ever(server: Hostile) -> None:
    server.faults.append(faults.endless_headers)
    said = raw(server, 1 << 20)
    assert len(said) >= 1 << 20
    assert b"\r\n\r\n" not in said


def test_a_drip_keeps_its_rate(server: Hostile) -> None:
    server.faults.append(faults.Drip(rate_bytes_per_s=100_000))
    started_s = time.monotonic()
    assert len(ask(server, Range="bytes=0-29999")[1]) == 30_000
    assert 0.25 < time.monotonic() - started_s < 2


def test_head_tells_the_length_and_takes_no_fault(server: Hostile) -> None:
    server.faults.append(faults.Status(500))
    with urlopen(Request(server.url("/f.bin"), method="HEAD"), timeout=5) as answer:
        assert int(answer.headers["Content-Length"]) == len(DATA)
    assert urlsplit(server.url("/f.bin")).port == server.port
    assert len(server.faults) == 1
