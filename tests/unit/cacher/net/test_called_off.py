"""An exchange that is called off ends soon, wherever it waits: for a name, a connection, a proxy, a handshake, a head, a body."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.retry import RetryRules
from prestage.cacher.transfer.ports import Cancelled
from servers.certs import Authority
from servers.listening import Listening

pytestmark = pytest.mark.timeout(60)
LONG = NetConfig(connect_timeout_s=300, idle_timeout_s=300, slow_timeout_s=300)
"""Longer than the test may take: what ends before was called off."""


@pytest.fixture
def client(authority: Authority) -> Iterator[HttpClient]:
    client = HttpClient(replace(LONG, ca_bundle=authority.ca))
    yield client
    client.close()


def called_off(call: Callable[[threading.Event], object], *, once: threading.Event | None = None) -> NetError:
    """What `call` raises when it is called off after `once` was set."""
    leaving = threading.Event()
    caught = list[NetError]()

    def run() -> None:
        with pytest.raises(NetError) as failed:
            call(leaving)
        caught.append(failed.value)

    thread = threading.Thread(target=run)
    thread.start()
    if once is not None:
        assert once.wait(20)
    assert thread.is_alive()
    leaving.set()
    thread.join(20)
    assert not thread.is_alive()
    return caught[0]


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port where nobody accepts and no more fit: a connect waits for an answer that does not come."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        queued = list[socket.socket]()
        try:
            while True:
                one = socket.socket()
                queued.append(one)
                one.settimeout(0.3)
                try:
                    one.connect(("127.0.0.1", port))
                except TimeoutError:
                    break
            yield port
        finally:
            for one in queued:
                one.close()


def silent(seen: threading.Event) -> Callable[[socket.socket, int], None]:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        seen.set()
        connection.recv(65536)

    return handle


def test_while_it_connects(client: HttpClient) -> None:
    with full_backlog() as port:
        error = called_off(lambda leaving: client.open(HttpRequest(f"http://127.0.0.1:{port}/"), leaving))
    assert error.reason == "aborted"


def test_while_a_name_resolves(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, back, plain = threading.Event(), threading.Event(), socket.getaddrinfo

    def hangs(*arguments: object, flags: int = 0, **settings: object) -> object:
        if flags & socket.AI_NUMERICHOST:
            return plain(*arguments, flags=flags, **settings)  # type: ignore[arg-type,misc] # as they came
        asked.set()
        back.wait(20)
        raise socket.gaierror("gone")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    try:
        error = called_off(lambda leaving: client.open(HttpRequest("http://slow.example/"), leaving), once=asked)
    finally:
        back.set()
    assert error.reason == "aborted"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_while_a_head_or_a_handshake_is_awaited(scheme: str, client: HttpClient) -> None:
    seen = threading.Event()
    with Listening(silent(seen)) as server:
        url = f"{scheme}://{server.authority}/"
        error = called_off(lambda leaving: client.open(HttpRequest(url), leaving), once=seen)
    assert error.reason == "aborted"


def test_while_a_head_is_awaited_inside_tls(client: HttpClient, authority: Authority) -> None:
    seen = threading.Event()
    with Listening(silent(seen), tls=authority.server_context()) as server:
        url = f"https://localhost:{server.port}/"
        error = called_off(lambda leaving: client.open(HttpRequest(url), leaving), once=seen)
    assert error.reason == "aborted"


def test_while_a_proxy_is_silent() -> None:
    seen = threading.Event()
    with Listening(silent(seen)) as server:
        client = HttpClient(replace(LONG, proxies={"https": f"http://{server.authority}"}))
        error = called_off(lambda leaving: client.open(HttpRequest("https://hub.example/"), leaving), once=seen)
    assert error.reason == "aborted"


def test_while_a_small_answer_is_read(client: HttpClient) -> None:
    sent = threading.Event()

    def half(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        sent.set()
        connection.recv(1)

    with Listening(half) as server:
        url = f"http://{server.authority}/"
        error = called_off(lambda leaving: client.fetch(HttpRequest(url), timeout_s=300, leaving=leaving), once=sent)
    assert error.reason == "aborted"


def test_a_connection_that_is_kept_heeds_its_next_user_only(client: HttpClient) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def twice(connection: socket.socket, number: int) -> None:
        for _ in range(2):
            connection.recv(65536)
            connection.sendall(answer)

    with Listening(twice) as server:
        request, gone = HttpRequest(f"http://{server.authority}/"), threading.Event()
        assert client.fetch(request, leaving=gone).body == b"ok"
        gone.set()
        assert client.fetch(request).body == b"ok"
        assert server.accepted == 1


def test_a_metadata_call_that_is_cancelled_ends_in_its_pause_too() -> None:
    asked, cancel, ended = threading.Event(), threading.Event(), list[BaseException]()

    def busy(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 200\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        asked.set()

    client = HttpClient(LONG)
    with Listening(busy) as server:
        asker = Asker(client, RetryRules(budget_s=1000), cancel=cancel)

        def ask() -> None:
            with pytest.raises(Cancelled) as failed:
                asker.glance(lambda: HttpRequest(f"http://{server.authority}/"), "it")
            ended.append(failed.value)

        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(20)
        cancel.set()
        thread.join(20)
        assert ended
    client.close()
