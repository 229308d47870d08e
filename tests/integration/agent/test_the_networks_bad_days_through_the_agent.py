"""What the command line survives by itself, the agent survives for four clients at once: one transfer, one answer to all.

The same table for each kind of origin: plain HTTP and some rows of a real S3 server in the normal tier, the rest and all of a hub
with its CDN but one row, in the slow one.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from agents.sites import FILE, TOKEN, Places, Site, places

from prestage.cacher.digests import PIECE_BYTES
from servers import faults
from servers.answers import Request
from servers.programs import lacking

CLIENTS = 4
JOURNALED_BYTES = 6_000_000
"""Of the other pieces, when the first one has been journaled: they come at 1 MB/s each."""
KINDS = ("http", "s3", "hub")


@pytest.fixture(scope="module")
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    versitygw = None if lacking("versitygw") else request.getfixturevalue("versitygw")
    with places(tmp_path_factory.mktemp("places"), versitygw) as made:
        yield made


@pytest.fixture(scope="module")
def agent(there: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One for the module: a start costs seconds on a busy machine."""
    with Agent(tmp_path_factory.mktemp("standing") / "store", env=there.environ) as running:
        yield running


@pytest.fixture
def site(kind: str, there: Places, data: bytes) -> Iterator[Site]:
    if kind == "s3" and (reason := lacking("versitygw")):
        pytest.skip(reason)
    yield there.site(kind, data)
    there.reset()


@pytest.fixture
def little(kind: str, there: Places) -> Iterator[Site]:
    """Where no bytes are to come."""
    if kind == "s3" and (reason := lacking("versitygw")):
        pytest.skip(reason)
    yield there.site(kind, b"little")
    there.reset()


of_each_kind = pytest.mark.parametrize("kind", ["http", "s3", pytest.param("hub", marks=pytest.mark.slow)])


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


def assert_all_hear(answers: list[dict[str, Any]], kind: str) -> str:
    """One error, the same for all; returns what it says."""
    assert {answer.get("kind") for answer in answers} == {kind}, answers
    (said,) = {f"{answer['message']} {answer['hint']}" for answer in answers}
    assert "\n" not in said
    return said


@of_each_kind
def test_four_clients_of_one_model_are_one_transfer(agent: Agent, site: Site, data: bytes) -> None:
    site.on_data(faults.Drip(20e6))
    assert_all_have(four_at_once(agent, site.ref), data)
    ranges = [request.range for request in site.data_gets()]
    assert len(ranges) == len(set(ranges)), "a piece was fetched twice"
    assert sum(stop - start for start, stop in map(_span, site.data_gets())) == len(data)


def _span(request: Request) -> tuple[int, int]:
    assert request.range is not None
    return request.range


def test_four_clients_of_four_models_share_the_connections(agent: Agent, there: Places, data: bytes) -> None:
    sites = [there.site("http", data) for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(agent.stage, [site.ref for site in sites]))
    assert len({answer["artifact"] for answer in answers}) == CLIENTS
    for answer in answers:
        assert_all_have([answer], data)
    assert sites[0].server.peak_requests <= 32
    there.reset()


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
    "changed, then not": [faults.Status(412)],
    "another size, then not": [faults.WrongContentRange(total_shift=1)],
}
QUICK = {"http": tuple(CURED), "s3": ("reset in the middle", "503 storm", "changed, then not"), "hub": ("reset in the middle",)}
"""What is tried in the normal tier."""


def _rows() -> Iterator[object]:
    for kind in KINDS:
        for name in CURED:
            yield pytest.param(kind, name, id=f"{kind}-{name}", marks=() if name in QUICK[kind] else pytest.mark.slow)


@pytest.mark.parametrize(("kind", "name"), list(_rows()))
def test_what_passes_is_cured_for_all_four(name: str, agent: Agent, site: Site, data: bytes) -> None:
    site.server.faults += CURED[name]
    assert_all_have(four_at_once(agent, site.ref), data)
    assert not site.server.faults


@of_each_kind
def test_a_flip_on_the_way_is_told_to_all_four_and_cured_once(agent: Agent, site: Site, data: bytes) -> None:
    unseen = data[1:] + b"1"  # else the store would know the bytes by their digest
    site.put(unseen)
    site.server.faults.append(faults.Flip(at=17))
    site.on_data(faults.Drip(20e6))
    assert_all_have(four_at_once(agent, site.stated(unseen)), unseen)
    assert not site.server.faults
    assert len([request for request in site.data_gets() if request.range == (0, PIECE_BYTES)]) <= 2


@of_each_kind
def test_a_corrupt_origin_is_told_to_all_four_with_both_digests(agent: Agent, site: Site, data: bytes) -> None:
    unseen = data[1:] + b"2"
    site.put(unseen)
    site.server.always.append(faults.Flip(at=PIECE_BYTES + 17))
    wrong = bytearray(unseen)
    wrong[PIECE_BYTES + 17] ^= 1
    said = assert_all_hear(four_at_once(agent, site.stated(unseen)), "corrupt")
    assert site.digest(unseen) in said
    assert site.digest(bytes(wrong)) in said
    assert agent.ask("GET", "/v1/resolve", query={"ref": site.ref}).status == 404


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_an_object_that_changes_under_the_download_is_fetched_anew_for_all_four(agent: Agent, site: Site, data: bytes) -> None:
    """A commit of a hub does not change: there the URL of its bytes does, which is another row."""
    newer = random.Random(4).randbytes(len(data))
    site.on_data(faults.Drip(4e6))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(four_at_once, agent, site.ref)
        agent.wait_for_stage(site.ref, lambda stage: stage["bytes"] > 0)
        site.put(newer)
        site.server.choose = lambda request: None
        assert_all_have(asked.result(), newer)


GONE = {"http": "miss", "s3": "miss", "hub": "denied"}
"""A CDN that says 404 to a signed URL, looked up afresh each time, does not say that the file is not there."""


@of_each_kind
def test_bytes_that_are_gone_are_one_clear_error_for_all_four(kind: str, agent: Agent, site: Site, data: bytes) -> None:
    site.on_data(faults.Status(404))
    assert_all_hear(four_at_once(agent, site.ref), GONE[kind])
    assert agent.ask("GET", "/v1/status").good["ready"]
    site.server.choose = lambda request: None
    assert_all_have(four_at_once(agent, site.ref), data)


@of_each_kind
def test_who_is_refused_hears_which_credential_was_used_never_its_value(
    kind: str, agent: Agent, there: Places, little: Site
) -> None:
    if kind == "hub":
        there.gate(little)
    else:
        little.server.choose = lambda request: faults.Status(401 if kind == "http" else 403)
    said = assert_all_hear(four_at_once(agent, little.ref), "denied")
    assert {"http": "401", "s3": "AWS_ACCESS_KEY_ID", "hub": "HF_TOKEN"}[kind] in said
    secrets = (TOKEN, there.environ.get("AWS_SECRET_ACCESS_KEY", TOKEN))
    assert not any(secret in said + agent.logs[-1].read_text() for secret in secrets)


@pytest.mark.parametrize(
    ("kind", "ref", "error"),
    [
        ("http", "no ref at all", "misconfigured"),
        ("http", "ftp://host/file", "misconfigured"),
        ("http", "{ref}.none", "miss"),
        ("s3", "s3://", "misconfigured"),
        ("s3", "s3://no-such-bucket-here/x/", "miss"),
        ("s3", "{ref}none/", "miss"),
        ("hub", "hf://org", "misconfigured"),
        ("hub", "hf://org/none", "miss"),
        ("hub", "{ref}-none", "miss"),
    ],
)
def test_what_is_not_there_is_one_line_for_all_four(kind: str, ref: str, error: str, agent: Agent, little: Site) -> None:
    if error == "misconfigured":
        answers = [agent.ask("POST", "/v1/stages", {"ref": ref}) for _ in range(CLIENTS)]
        assert {(answer.status, answer.body["kind"]) for answer in answers} == {(400, error)}, answers
        return
    assert_all_hear(four_at_once(agent, ref.format(ref=little.ref)), error)


@pytest.mark.parametrize("kind", ["s3", "hub"])
@pytest.mark.parametrize("name", ["../evil", "/evil"], ids=["above", "absolute"])
def test_a_listing_with_a_name_that_leads_elsewhere_is_refused_for_all_four(name: str, agent: Agent, little: Site) -> None:
    little.api.choose = lambda request: faults.Reworded(FILE.encode(), name.encode()) if request.method == "GET" else None
    said = assert_all_hear(four_at_once(agent, little.ref), "misconfigured")
    assert repr(name) in said
    assert not little.data_gets()


def _first_piece_soon(request: Request) -> faults.Fault | None:
    """One piece is journaled while the others are still on their way."""
    if request.range is None:
        return None
    return faults.Drip(60e6) if request.range[0] == 0 else faults.Drip(1e6)


def assert_went_on(answers: list[dict[str, Any]], site: Site, content: bytes) -> None:
    assert_all_have(answers, content)
    for answer in answers:
        assert answer["bytes_by_source"]["journal"] >= PIECE_BYTES
        assert sum(answer["bytes_by_source"].values()) == len(content)
    assert all(_span(request)[0] >= PIECE_BYTES for request in site.data_gets()), "a journaled piece was fetched again"


@of_each_kind
def test_when_all_four_leave_it_is_taken_back_and_goes_on_where_it_was(agent: Agent, site: Site, data: bytes) -> None:
    site.server.choose = _first_piece_soon
    with ExitStack() as leaving:
        for _ in range(CLIENTS):
            leaving.enter_context(agent.stream("POST", "/v1/stage", {"ref": site.ref}))
        agent.wait_for_stage(site.ref, lambda stage: stage["bytes"] > PIECE_BYTES)
    agent.wait_for_stage(site.ref, lambda stage: stage["state"] not in ("queued", "running"))
    site.server.reset()
    assert_went_on(four_at_once(agent, site.ref), site, data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "hub"])
def test_killed_under_all_four_it_goes_on_where_it_was(there: Places, site: Site, data: bytes, tmp_path: Path) -> None:
    site.server.choose = _first_piece_soon
    with Agent(tmp_path / "store", env=there.environ) as agent:
        with ThreadPoolExecutor(CLIENTS) as pool:
            asked = [pool.submit(agent.stage, site.ref) for _ in range(CLIENTS)]
            agent.wait_for_stage(site.ref, lambda stage: stage["bytes"] > PIECE_BYTES + JOURNALED_BYTES)
            agent.kill()
            assert all(isinstance(ask.exception(), AssertionError | OSError | HTTPException) for ask in asked), (
                "an answer was made up"
            )
        site.server.reset()
        agent.start()
        assert_went_on(four_at_once(agent, site.ref), site, data)


@pytest.mark.slow
def test_a_store_deleted_under_all_four_is_a_clear_error_and_the_next_agent_makes_another(
    there: Places, data: bytes, tmp_path: Path
) -> None:
    site = there.site("http", data)
    site.server.choose = _first_piece_soon
    with Agent(tmp_path / "store", env=there.environ) as agent:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(four_at_once, agent, site.ref)
            agent.wait_for_stage(site.ref, lambda stage: stage["bytes"] > 0)
            shutil.rmtree(agent.root)
            site.server.choose = lambda request: None
            answers = asked.result()
        assert {answer["event"] for answer in answers} == {"error"}, answers
        assert all("Traceback" not in answer["message"] for answer in answers)
        agent.kill()
        agent.start()
        assert_all_have(four_at_once(agent, site.ref), data)
    there.reset()
