"""Peers that read slowly, say nothing, ask nonsense or come in crowds; workers that die; an end that lets others finish."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from serving import SMALL, Peer, name_of, read_all, serving, stocked
from stores.making import Model, content

from prestage.cacher.serving.counters import Row
from prestage.cacher.serving.supervisor import Serving

LONG = content(24 << 20, "long")
MODEL = Model({"long.bin": LONG, "small.bin": SMALL})
URL, SMALL_URL = f"/v1/blobs/{name_of(LONG)}", f"/v1/blobs/{name_of(SMALL)}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "store"
    stocked(path, MODEL)
    return path


def eventually(holds: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def children(running: Serving) -> list[int]:
    return [slot.process.pid for slot in running._slots if slot.process is not None]


def test_a_reader_that_takes_nothing_is_cut_off_and_another_is_not(root: Path) -> None:
    with serving(root, idle_s=1.0) as (running, peer), peer.connect(receive_buffer=4096) as sock:
        peer.send(sock, URL)
        with contextlib.suppress(ConnectionResetError):
            steady = b""
            sock.recv(10)
            eventually(lambda: running.stats().cut == 1)
            assert peer.ask(URL).body == LONG
            steady += read_all(sock)
            assert len(steady) < len(LONG)
        eventually(lambda: running.stats().active == 0)


def test_a_slow_reader_that_takes_something_is_served_to_the_end(root: Path) -> None:
    with serving(root, idle_s=0.5, slow_bytes_per_s=1000) as (running, peer), peer.connect(receive_buffer=64 << 10) as sock:
        peer.send(sock, URL, "Connection: close")
        taken = b""
        for _ in range(15):  # three sweeps and more
            taken += sock.recv(32 << 10)
            time.sleep(0.1)
        taken += read_all(sock)
        assert taken.partition(b"\r\n\r\n")[2] == LONG
        assert running.stats().cut == 0


def test_a_head_that_does_not_end_is_answered_408(root: Path) -> None:
    with serving(root, head_s=0.3) as (_, peer), peer.connect() as sock:
        sock.sendall(b"GET /v1/blobs/x HTTP/1.1\r\nHost: x\r\n")
        raw = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while not select.select([sock], [], [], 0.05)[0]:
                sock.sendall(b"X: y\r\n"[:1])
            raw = read_all(sock)
        assert raw.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("said", [b"", b"G"])
def test_a_peer_that_goes_silent_is_let_go(root: Path, said: bytes) -> None:
    with serving(root, head_s=0.3, keep_alive_s=0.3) as (running, peer), peer.connect() as sock:
        sock.sendall(said)
        eventually(lambda: running.stats().active == 0)
        with peer.connect() as idle:
            peer.send(idle, SMALL_URL)
            assert idle.recv(100).startswith(b"HTTP/1.1 200")
            eventually(lambda: running.stats().active == 0)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"x" * 40_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"POST /v1/blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", 405),
        (b"GET /../../format HTTP/1.1\r\nHost: x\r\n\r\n", 401),
    ],
)
def test_nonsense_is_answered_and_the_connection_ends(root: Path, raw: bytes, status: int) -> None:
    with serving(root, workers=1) as (running, peer):
        with peer.connect() as sock:
            sock.sendall(raw)
            answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert peer.ask(SMALL_URL).body == SMALL
        assert running.stats().restarts == 0


def test_one_address_gets_so_many_connections_and_no_more(root: Path) -> None:
    with serving(root, workers=1, connections_per_peer=3) as (running, peer), contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(peer.connect())
        eventually(lambda: running.stats().active == 3)
        answer = peer.ask(SMALL_URL)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        held.close()
        eventually(lambda: running.stats().active == 0)
        assert peer.ask(SMALL_URL).body == SMALL


def test_a_thousand_connections_are_held_or_told_to_come_back(root: Path) -> None:
    with serving(root, connections=600, connections_per_peer=1000) as (running, peer), contextlib.ExitStack() as held:
        socks = [held.enter_context(peer.connect()) for _ in range(1000)]
        eventually(lambda: running.stats().active + running.stats().refused >= 1000)
        stats = running.stats()
        assert 600 <= stats.active <= 604  # two workers may take the last ones at the same moment
        for sock in socks:
            with contextlib.suppress(OSError):
                peer.send(sock, SMALL_URL, "Connection: close")
        served = refused = 0
        for sock in socks:
            try:
                raw = read_all(sock)
            except ConnectionResetError:
                raw = b""
            served += raw.endswith(SMALL)
            refused += raw.startswith(b"HTTP/1.1 503 ") or not raw
        assert (served, refused) == (stats.active, 1000 - stats.active)
        eventually(lambda: running.stats().active == 0)
        assert running.stats().restarts == 0
        assert peer.ask(SMALL_URL).body == SMALL


def test_connections_are_spread_over_the_workers(root: Path) -> None:
    with serving(root) as (running, peer), contextlib.ExitStack() as held:
        for count in range(1, 9):
            held.enter_context(peer.connect())
            eventually(partial(has_active, running, count))
        assert running._counters is not None
        assert sorted(running._counters.column(Row.ACTIVE)) in ([3, 5], [4, 4])


def has_active(running: Serving, count: int) -> bool:
    return running.stats().active == count


def test_the_upload_cap_holds_over_all_workers_and_can_be_lifted(root: Path) -> None:
    with serving(root, rate_bytes_per_s=4e6) as (running, peer):
        began = time.monotonic()
        for _ in range(2):
            assert len(peer.ask(URL, {"Range": "bytes=0-1999999"}).body) == 2_000_000
        assert time.monotonic() - began > 0.7  # each worker has half of it
        running.set_rate(None)
        assert peer.ask(URL).body == LONG
        running.set_rate(1e6)
        with peer.connect() as sock:
            peer.send(sock, URL, "Connection: close")
            sock.recv(1000)
            running.set_rate(None)  # at once, also for what runs
            assert len(read_all(sock)) > len(LONG) - 1000


def test_a_changed_token_file_counts_at_once(root: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    with serving(root, token) as (running, _):
        assert Peer(running.port, "one").ask(SMALL_URL).status == 200
        token.write_text("two\nthree\n")
        for name, status in (("one", 401), ("two", 200), ("three", 200)):
            for _ in range(3):
                assert Peer(running.port, name).ask(SMALL_URL).status == status


def test_a_worker_that_dies_is_started_again(root: Path) -> None:
    with serving(root) as (running, peer):
        for pid in children(running):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: running.stats().restarts == 2 and running.stats().workers == 2)
        assert peer.ask(SMALL_URL).body == SMALL
        eventually(lambda: running.stats().active == 0)


def test_workers_end_with_who_started_them(root: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    argv = ["-m", "prestage.cacher.serving", "--root", str(root), "--token-file", str(tmp_path / "token")]
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert '"port"' in process.stdout.readline()
        workers = Path(f"/proc/{process.pid}/task").glob("*/children")
        pids = [pid for children in workers for pid in children.read_text().split()]
        assert len(pids) == 2
        process.kill()
        process.wait()
    eventually(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def reading(root: Path) -> Iterator[tuple[Serving, Peer, socket.socket]]:
    """A peer in the middle of a blob."""
    with serving(root) as (running, peer), peer.connect(receive_buffer=4096) as sock:
        peer.send(sock, URL)
        sock.recv(1)
        yield running, peer, sock


def test_a_drain_lets_what_runs_finish_and_takes_nothing_new(reading: tuple[Serving, Peer, socket.socket]) -> None:
    running, peer, sock = reading
    idle = peer.connect()
    peer.send(idle, SMALL_URL)
    idle.recv(4096)
    stopping = threading.Thread(target=running.stop, args=(20.0,))
    stopping.start()
    while idle.recv(1 << 16):
        pass
    idle.close()
    raw = b"H" + read_all(sock)
    assert raw.partition(b"\r\n\r\n")[2] == LONG
    stopping.join()
    with pytest.raises(ConnectionRefusedError):
        peer.connect()
    assert running.stats().bytes >= len(LONG)


def test_a_drain_ends_in_time_whoever_reads(reading: tuple[Serving, Peer, socket.socket]) -> None:
    running, _, sock = reading
    began = time.monotonic()
    running.stop(0.3)
    assert time.monotonic() - began < 5
    with contextlib.suppress(ConnectionResetError):
        assert len(read_all(sock)) < len(LONG)


def test_a_standalone_server_drains_on_sigterm(root: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    argv = ["-m", "prestage.cacher.serving", "--root", str(root), "--token-file", str(tmp_path / "token"), "--workers", "1"]
    with subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[1].strip(" }\n"))
        assert Peer(port, "t").ask(SMALL_URL).body == SMALL
        process.terminate()
        assert process.wait(30) == 0
