"""What clients do wrong, by accident or not: a thousand at once, silence, half requests, garbage. The agent stays as it was."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from agents import Agent, wait_for

from servers import faults
from servers.hostile import Hostile

from .conftest import MODEL

FLOOD = 1000


def connected(agent: Agent, timeout_s: float = 60) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout_s)
    sock.connect(str(agent.socket))
    return sock


def all_of(sock: socket.socket) -> bytes:
    """Until the other end closes."""
    said = b""
    try:
        while part := sock.recv(1 << 16):
            said += part
    except ConnectionError:
        pass
    return said


@contextmanager
def returns_to_its_size(agent: Agent, *, spare: int = 2) -> Iterator[None]:
    """Descriptors and memory are afterwards what they were, but for a warm-up's worth. `spare`: connections to the origin that
    may be kept."""
    agent.ask("GET", "/v1/status")
    descriptors, rss = agent.descriptors(), agent.rss_bytes()
    yield
    wait_for(lambda: agent.descriptors() <= descriptors + spare)
    assert agent.rss_bytes() < rss + 60_000_000
    assert agent.ask("GET", "/v1/status").good["ready"]


def test_a_thousand_at_once_are_answered_or_told_to_come_again(tmp_path: Path, origin: Hostile) -> None:
    with Agent(tmp_path / "store", within=("prlimit", "--nofile=512:8192")) as agent:
        _flooded(agent, origin.url("/small-0"))


def _flooded(agent: Agent, url: str) -> None:
    agent.stage(url)
    request = f"GET /v1/resolve?ref={url} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    seen: Counter[int] = Counter()
    with returns_to_its_size(agent), ExitStack() as open_ones:
        socks = [open_ones.enter_context(connected(agent)) for _ in range(FLOOD)]
        for sock in socks:
            sock.sendall(request)
        for sock in socks:
            head, _, body = all_of(sock).partition(b"\r\n\r\n")
            status = int(head.split(b" ")[1])
            seen[status] += 1
            if status == 503:
                assert b"Retry-After: 1" in head
                assert json.loads(body)["kind"] == "busy"
            else:
                assert json.loads(body)["path"].startswith(str(agent.root))
    assert seen.total() == FLOOD
    assert seen.keys() <= {200, 503}
    assert seen[200] >= 256


def test_more_streams_than_it_takes_are_told_to_come_again_and_the_others_are_served(tmp_path: Path, origin: Hostile) -> None:
    with (
        Agent(tmp_path / "store", settings={"listeners_max": 20, "requests_max": 5}) as agent,
        returns_to_its_size(agent, spare=34),
    ):
        with ExitStack() as open_ones:
            refused = 0
            for _ in range(40):
                sock = open_ones.enter_context(connected(agent))
                sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n")
                refused += sock.recv(1 << 12).startswith(b"HTTP/1.1 503")
            assert refused == 20
            assert agent.ask("GET", "/v1/status").status == 200, "who listens takes no place of those who ask"

        def staged() -> bool:
            with agent.stream("POST", "/v1/stage", {"ref": origin.url("/small-1")}) as events:
                return events.refused is None and events.last()["event"] == "done"

        assert wait_for(staged), "those who left were noticed at the next sign of life"


def test_who_asks_nothing_is_closed_and_who_asks_now_and_then_is_not(tmp_path: Path) -> None:
    idle_s = 3.0
    with Agent(tmp_path / "store", settings={"idle_connection_s": idle_s}) as agent, ExitStack() as open_ones:
        silent = open_ones.enter_context(connected(agent))
        half_a_head = open_ones.enter_context(connected(agent))
        half_a_head.sendall(b"GET /v1/status HTTP/1.1\r\nHost:")
        busy = open_ones.enter_context(connected(agent))
        closed: list[bytes] = []
        waiters = [threading.Thread(target=lambda sock=sock: closed.append(all_of(sock))) for sock in (silent, half_a_head)]
        for waiter in waiters:
            waiter.start()
        began = time.monotonic()
        while time.monotonic() - began < 2.5 * idle_s:
            busy.sendall(b"GET /v1/stages HTTP/1.1\r\nHost: a\r\n\r\n")
            assert busy.recv(1 << 16).startswith(b"HTTP/1.1 200"), "a connection in use was closed"
            time.sleep(idle_s / 12)
        for waiter in waiters:
            waiter.join(60)
        assert closed == [b"", b""]


def test_half_a_body_is_not_waited_for_for_ever(standing: Agent) -> None:
    with returns_to_its_size(standing), ExitStack() as open_ones:
        socks = [open_ones.enter_context(connected(standing)) for _ in range(50)]
        for sock in socks:
            sock.sendall(b"POST /v1/evict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
        gone = connected(standing)
        gone.sendall(b"POST /v1/evict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
        gone.close()
        for sock in socks:
            said = sock.recv(1 << 16)
            assert said.startswith(b"HTTP/1.1 400"), said
            assert b"not whole" in said


GARBAGE: dict[str, bytes] = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "zeros": b"\0" * 10_000,
    "a head that is too large": b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    "headers without end": b"GET / HTTP/1.1\r\n" + b"X-More: z\r\n" * 50_000,
    "two lengths": b"POST /v1/evict HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a negative length": b"POST /v1/evict HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n{}",
    "broken chunks": b"POST /v1/evict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}",
    "gzip that is none": b"POST /v1/evict HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "an absolute target": b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "an upgrade": b"GET /v1/status HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "a body of a megabyte": b"POST /v1/evict HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n" + b"{" * (1 << 20),
    "nested too deep": b"POST /v1/evict HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_without_a_word_in_the_log(name: str, standing: Agent) -> None:
    with connected(standing, timeout_s=30) as sock:
        try:
            sock.sendall(GARBAGE[name])
            sock.shutdown(socket.SHUT_WR)
        except ConnectionError:
            assert name != "an upgrade"  # it closed before it had read it all: as good an answer
        said = all_of(sock)
    assert not said or said.split(b" ")[1][:1] in (b"4", b"2"), said[:300]
    assert "Traceback" not in standing.logs[-1].read_text()
    assert standing.ask("GET", "/v1/status").good["ready"]


def test_random_bytes_from_many_change_nothing(standing: Agent) -> None:
    rng = random.Random(11)
    with returns_to_its_size(standing):

        def babble(seed: int) -> None:
            dice = random.Random(seed)
            with connected(standing, timeout_s=5) as sock:
                try:
                    sock.sendall(
                        dice.choice([b"", b"GET ", b"POST /v1/stage HTTP/1.1\r\n"]) + dice.randbytes(dice.randint(1, 5000))
                    )
                    sock.shutdown(socket.SHUT_WR)
                    all_of(sock)
                except (ConnectionError, TimeoutError):
                    return

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(babble, [rng.randrange(1 << 30) for _ in range(300)]))


def test_requests_in_a_row_on_one_connection_are_answered_in_order(standing: Agent) -> None:
    paths = ["/v1/stages", "/v1/resolve?ref=file:///nothing", "/v1/artifacts"]
    with connected(standing) as sock:
        pipelined = "".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths)
        sock.sendall(pipelined.encode() + b"GET /v1/none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        said = all_of(sock)
    statuses = [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 404, 200, 404]


def test_who_reads_slowly_costs_nothing_and_harms_nobody(tmp_path: Path, origin: Hostile) -> None:
    """200 who never read, on a stage that says much: the socket's buffer is all they get."""
    origin.choose = lambda request: faults.Drip(4e6) if request.method == "GET" else None
    with Agent(tmp_path / "store") as agent, returns_to_its_size(agent, spare=34), ExitStack() as open_ones:
        name = agent.ask("POST", "/v1/stages", {"ref": origin.url(MODEL), "keep": True}).good["id"]
        for _ in range(200):
            sock = open_ones.enter_context(connected(agent))
            sock.sendall(f"GET /v1/stages/{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        agent.wait_for_stage(origin.url(MODEL), lambda stage: stage["waiting"] == 200)
        origin.choose = lambda request: None
        agent.wait_for_event("staged", ref=origin.url(MODEL))
