"""What pulls and stagings come to, and the throttle between."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace

import pytest
from rich.console import Console

from prestage.bench.image import FIND, PULL, STAGE, ImageResult, ImageSample, image_table
from prestage.bench.machine import describe
from prestage.bench.throttle import throttled


@pytest.fixture
def result(tmp_path_factory: pytest.TempPathFactory) -> ImageResult:
    """Two rounds: a pull takes 8 and 9 s, staging 4 and 3, a pull of what is staged 0.1 and 0.3."""
    rounds = ((0, PULL, 8.0), (0, STAGE, 4.0), (0, FIND, 0.1), (1, STAGE, 3.0), (1, FIND, 0.3), (1, PULL, 9.0))
    samples = tuple(ImageSample(number, what, seconds, 1.0, 0.1) for number, what, seconds in rounds)
    machine = describe(tmp_path_factory.getbasetemp())
    return ImageResult("reg.example/app:1", 10**9, 4, "1.7.24", 80 * 10**6, 2, 1, "2026-11-26T00:00:00+00:00", machine, samples)


def test_speed_is_taken_round_by_round_and_held_against_its_goal(result: ImageResult) -> None:
    found = result.to_json()
    assert result.speed.values == (2.0, 3.0)
    assert found["goals"] == {"find": {"goal": 0.2, "met": True}, "speed": {"goal": 2.0, "met": True}}
    assert json.loads(json.dumps(found))["find"]["median"] == 0.2
    unlimited = replace(result, throttle=None, samples=tuple(replace(one, seconds=1.0) for one in result.samples))
    assert unlimited.to_json()["goals"] == {"find": {"goal": 0.2, "met": False}, "speed": {"goal": 1.0, "met": True}}


def test_the_table_says_what_was_measured_and_what_was_met(result: ImageResult) -> None:
    console = Console(width=160)
    with console.capture() as shown:
        console.print(image_table(result))
    text = shown.get()
    assert "reg.example/app:1: 4 layers, 1 GB, 80 MB/s a connection, containerd 1.7.24" in text
    assert "staging is 2.50x as fast as a pull" in text
    assert "goal 2.0: met" in text


def test_the_throttle_holds_each_connection_back_by_itself() -> None:
    size_bytes, rate = 1_500_000, 3_000_000
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send(connection: socket.socket) -> None:
            with connection:
                connection.sendall(bytes(size_bytes))

        def serve() -> None:
            senders = [threading.Thread(target=send, args=(server.accept()[0],)) for _ in range(2)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()

        serving = threading.Thread(target=serve)
        serving.start()
        with throttled("127.0.0.1", server.getsockname()[1], rate) as port:
            began, came = time.monotonic(), list[int]()

            def fetch() -> None:
                with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                    came.append(sum(iter(lambda: len(connection.recv(1 << 16)), 0)))

            fetching = [threading.Thread(target=fetch) for _ in range(2)]
            for one in fetching:
                one.start()
            for one in fetching:
                one.join()
            took_s = time.monotonic() - began
        serving.join()
    assert came == [size_bytes, size_bytes]
    assert took_s > 0.3, "not before its time"
