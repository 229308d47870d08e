"""What the command line survives by itself, the agent survives for four clients at once: one transfer, one answer to all."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agents import Agent

from prestage.cacher.digests import PIECE_BYTES
from servers import faults
from servers.answers import Request
from servers.hostile import Hostile

from .conftest import MODEL

CLIENTS = 4


def four_at_once(agent: Agent, ref: str, **fields: object) -> list[dict[str, Any]]:
    """The last events of four clients that ask for the same at the same moment."""
    start = threading.Barrier(CLIENTS)

    def ask(_: int) -> dict[str, Any]:
        start.wait()
        return agent.stage(ref, **fields)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, range(CLIENTS)))


def assert_all_have(answers: list[dict[str, Any]], content: bytes) -> None:
    assert {answer["event"] for answer in answers} == {"done"}, answers
    (path,) = {answer["path"] for answer in answers}
    (file,) = Path(path).iterdir()
    assert file.read_bytes() == content


def test_four_clients_of_one_model_are_one_transfer(standing: Agent, origin: Hostile, data: bytes) -> None:
    origin.choose = lambda request: faults.Drip(20e6) if request.method == "GET" else None
    assert_all_have(four_at_once(standing, origin.url(MODEL)), data)
    ranges = [request.range for request in origin.gets(MODEL)]
    assert len(ranges) == len(set(ranges)), "a piece was fetched twice"
    assert origin.sent_bytes == len(data)


def test_four_clients_of_four_models_share_the_connections(standing: Agent, origin: Hostile, data: bytes) -> None:
    for number in range(CLIENTS):
        origin.put(f"/{number}{MODEL}", data)
    urls = [origin.url(f"/{number}{MODEL}") for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(standing.stage, urls))
    assert len({answer["artifact"] for answer in answers}) == CLIENTS
    for answer in answers:
        assert_all_have([answer], data)
    assert origin.peak_requests <= 32


CURED: dict[str, list[faults.Fault]] = {
    "cut in the middle": [faults.Cut(after=1_000_000)] * 3,
    "cut before the head": [faults.Cut(after=-1)] * 3,
    "reset in the middle": [faults.Reset(after=5_000_000)] * 3,
    "stall in the middle": [faults.Stall(after=3_000_000)],
    "garbage": [faults.Garbage()] * 3,
    "503 storm": faults.storm(503, 6, retry_after="0"),
    "429 without Retry-After": faults.storm(429, 3),
    "500": faults.storm(500, 3),
    "wrong Content-Range offset": [faults.WrongContentRange(shift=4096)] * 2,
    "a shorter range than asked": [faults.OtherRange(by=1 << 20)] * 3,
    "gzip although identity was asked": [faults.gzipped] * 2,
    "length too long": [faults.WrongLength(by=500)] * 2,
    "length too short": [faults.WrongLength(by=-500)] * 2,
    "headers without end": [faults.endless_headers],
    "broken chunks": [faults.broken_chunks] * 2,
    "chunked": [faults.chunked] * 4,
    "HTTP/1.0": [faults.http10] * 4,
    "closed without a word": [faults.leaves_unsaid] * 4,
    "range ignored once": [faults.ignores_range],
}


@pytest.mark.parametrize("name", CURED)
def test_what_passes_is_cured_for_all_four(name: str, standing: Agent, origin: Hostile, data: bytes) -> None:
    origin.faults += CURED[name]
    assert_all_have(four_at_once(standing, origin.url(MODEL)), data)
    assert not origin.faults


def test_a_flip_on_the_way_is_told_to_all_four_and_cured_once(standing: Agent, origin: Hostile, data: bytes) -> None:
    origin.faults.append(faults.Flip(at=17))
    origin.choose = lambda request: faults.Drip(20e6) if request.method == "GET" else None
    url = f"{origin.url(MODEL)}#sha256={hashlib.sha256(data).hexdigest()}"
    assert_all_have(four_at_once(standing, url), data)
    assert len([request for request in origin.gets(MODEL) if request.range == (0, PIECE_BYTES)]) <= 2


def test_a_corrupt_origin_is_told_to_all_four_with_both_digests(standing: Agent, origin: Hostile, data: bytes) -> None:
    origin.always.append(faults.Flip(at=PIECE_BYTES + 17))
    wrong = bytearray(data)
    wrong[PIECE_BYTES + 17] ^= 1
    right = hashlib.sha256(data).hexdigest()
    answers = four_at_once(standing, f"{origin.url(MODEL)}#sha256={right}")
    assert {answer["kind"] for answer in answers} == {"corrupt"}
    assert all(right in answer["message"] and hashlib.sha256(wrong).hexdigest() in answer["message"] for answer in answers)
    assert standing.ask("GET", "/v1/resolve", query={"ref": origin.url(MODEL)}).status == 404


def test_an_object_that_changes_under_the_download_is_fetched_anew_for_all_four(
    standing: Agent, origin: Hostile, data: bytes
) -> None:
    newer = random.Random(4).randbytes(len(data))
    origin.choose = lambda request: faults.Drip(4e6) if request.method == "GET" else None
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(four_at_once, standing, origin.url(MODEL))
        standing.wait_for_stage(origin.url(MODEL), lambda stage: stage["bytes"] > 0)
        origin.put(MODEL, newer)
        origin.choose = lambda request: None
        assert_all_have(asked.result(), newer)


def _never(request: Request) -> faults.Fault | None:
    return faults.Status(404) if request.method == "GET" else None


def _denied(request: Request) -> faults.Fault | None:
    return faults.Status(401)


ENDS: dict[str, tuple[Callable[[Request], faults.Fault | None], str]] = {
    "gone between resolve and download": (_never, "miss"),
    "denied": (_denied, "denied"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_does_not_pass_is_one_clear_error_for_all_four(name: str, standing: Agent, origin: Hostile) -> None:
    origin.choose, kind = ENDS[name]
    answers = four_at_once(standing, origin.url(MODEL))
    assert {answer["kind"] for answer in answers} == {kind}, answers
    assert standing.ask("GET", "/v1/status").good["ready"]
    origin.choose = lambda request: None
    assert four_at_once(standing, origin.url(MODEL))[0]["event"] == "done"
