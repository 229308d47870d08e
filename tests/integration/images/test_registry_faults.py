"""A registry that misbehaves while layers come: what passes is cured and no byte is wrong, what does not ends in one line."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest
from layers import sha256
from layers.rig import MIB, QUICK, Rig, locked, made

from prestage.cacher.errors import Corrupt, Denied, NotFound, PrestageError, Unavailable
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.transfer.engine import Engine
from prestage.images.fetching import LayerFetcher
from prestage.images.incoming import Wanted
from prestage.images.logins import Login
from prestage.images.registry import ANSWERS_MOST
from servers import faults
from servers.answers import Answer, Request
from servers.hostile import Hostile


@pytest.fixture
def rig() -> Iterator[Rig]:
    config = NetConfig(idle_timeout_s=0.5, connect_timeout_s=2)
    with Hostile() as server, closing(HttpClient(config)) as client:
        yield Rig(server, client)


def assert_right(found: list[bytes]) -> None:
    assert [sha256(data) for data in found] == list(made().layers)


CURED: dict[str, list[faults.Fault]] = {
    "nothing": [],
    "cut in the middle": [faults.Cut(after=5_000_000)] * 2,
    "cut below one buffer": [faults.Cut(after=70_000)] * 6,
    "cut before the head": [faults.Cut(after=-1)] * 3,
    "reset": [faults.Reset(after=3_000_000), faults.Reset()],
    "truncated": [faults.WrongLength(by=500)] * 2,
    "429 with Retry-After": faults.storm(429, 2, retry_after="1"),
    "503 with Retry-After": faults.storm(503, 2, retry_after="1"),
    "500": faults.storm(500, 3),
    "silence": [faults.Stall(after=1_000_000), faults.Stall(after=-1)],
    "one slow connection": [faults.Drip(200_000.0)],
    "another range": [faults.WrongContentRange(shift=4096)] * 2,
    "a shorter range": [faults.OtherRange(by=MIB)] * 3,
    "compressed": [faults.gzipped],
    "garbage": [faults.Garbage()] * 2,
    "ranges ignored once": [faults.ignores_range],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CURED)
def test_what_passes_is_cured_and_no_byte_is_wrong(name: str, rig: Rig) -> None:
    rig.on_layers(*CURED[name])
    assert_right(rig.fetch())


def test_what_is_there_is_not_fetched_again(rig: Rig) -> None:
    offset = 17 * MIB + 12_345
    first, second = rig.fetch(offset)
    assert first == made().blobs[made().layers[0]][offset:]
    assert sha256(second) == made().layers[1]
    asked = [request.range for request in rig.server.gets() if rig.is_layer(request) and made().layers[0] in request.path]
    assert asked
    assert all(span is not None and span[0] >= offset for span in asked)


@pytest.mark.parametrize("fault", [None, faults.ignores_range], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("said", [10 * MIB, 17 * MIB])
def test_of_a_layer_that_containerd_has_less_of_than_it_said_the_rest_is_read(
    said: int, fault: faults.Fault | None, rig: Rig
) -> None:
    """An ingest goes between ListStatuses and STAT, or while it is written."""
    rig.on_layers(always=fault)
    registry, resolved = rig.resolve()
    large, little = resolved.blobs
    found = []

    async def work(engine: Engine) -> None:
        wanted = [Wanted(little), Wanted(large, said)]
        async with LayerFetcher(engine, rig.client, registry).fetch(wanted) as incoming, asyncio.timeout(20):
            await incoming.read(little, 0, MIB)
            for start in (said, 0, 0):
                data = bytearray()
                while start + len(data) < large.size_bytes:
                    data += await incoming.read(large, start + len(data), MIB)
                found.append(bytes(data))

    with Engine(QUICK) as engine:
        asyncio.run(work(engine))
    assert found[0] == made().blobs[large.digest][said:]
    assert [sha256(data) for data in found[1:]] == [large.digest] * 2


def test_no_more_is_fetched_ahead_of_its_reader_than_there_is_memory_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prestage.images.incoming.PIECES_AHEAD", 1)
    registry, resolved = rig.resolve()
    blob = resolved.blobs[0]
    seen: list[tuple[int, int] | None] = []

    async def work(engine: Engine) -> None:
        async with LayerFetcher(engine, rig.client, registry).fetch([Wanted(one) for one in resolved.blobs]) as incoming:
            for offset in range(0, 16 * MIB, MIB):
                await incoming.read(blob, offset, MIB)
            seen.extend(request.range for request in rig.server.gets() if rig.is_layer(request))
            assert await incoming.read(blob, 16 * MIB, MIB)

    with Engine(QUICK) as engine:
        asyncio.run(work(engine))
    assert seen == [(0, 16 * MIB)]


def test_a_registry_without_ranges_gives_each_layer_on_one_connection(rig: Rig) -> None:
    rig.on_layers(always=faults.ignores_range)
    assert_right(rig.fetch())
    assert rig.received_bytes <= made().layer_bytes


def test_a_registry_without_ranges_that_breaks_off_is_read_again(rig: Rig) -> None:
    def broken(request: Request, answer: Answer) -> Answer:
        return faults.Cut(after=17 * MIB)(request, answer)

    script = [faults.ignores_range] * 4
    rig.on_layers(*script, always=faults.ignores_range)
    rig.server.faults += [faults.proper] * 9 + [broken]
    assert_right(rig.fetch())


ENDS: dict[str, tuple[faults.Fault, type[PrestageError], str]] = {
    "503 for ever": (faults.Status(503), Unavailable, "gave up after 8 failures"),
    "cut for ever": (faults.Cut(after=0), Unavailable, "gave up after 8 failures"),
    "another length": (faults.WrongContentRange(total_shift=1), Corrupt, "another length"),
    "gone": (faults.Status(404), NotFound, "no layer of the image"),
    "forbidden": (faults.Status(403), Denied, "refuses layer of the image"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_what_does_not_pass_ends_in_one_line_without_a_digest(name: str, rig: Rig) -> None:
    fault, kind, says = ENDS[name]
    rig.on_layers(always=fault)
    with pytest.raises(kind, match=says) as caught:
        rig.fetch()
    assert not any(digest in str(caught.value) for digest in made().layers)


class Guard:
    """The first bearer token is good for so many requests, the second for all others; who comes with an old one gets 401."""

    def __init__(self, server: Hostile, uses: int) -> None:
        self.server, self.left = server, uses
        self.given = 1
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> faults.Fault | None:
        if request.path == "/token":
            return faults.Status(200, body=json.dumps({"token": f"t{self.given}", "expires_in": 300}).encode())
        with self.lock:
            if request.headers.get("authorization") != f"Bearer t{self.given}":
                challenge = f'Bearer realm="{self.server.url("/token")}",service="hostile"'
                return faults.Status(401, headers=(("WWW-Authenticate", challenge),))
            self.left -= 1
            if not self.left:
                self.given = 2
        return None


def test_a_token_that_ends_in_mid_transfer_is_asked_for_anew(rig: Rig) -> None:
    rig.login = Login("bob", "s3cret")
    rig.server.choose = Guard(rig.server, uses=4)  # manifest, config, a lookup and one piece
    assert_right(rig.fetch())
    asked = [request.headers["authorization"] for request in rig.server.gets("/token")]
    assert asked == [Login("bob", "s3cret").basic] * 2


def test_who_is_refused_a_new_token_in_mid_transfer_is_told_so(rig: Rig) -> None:
    rig.login = Login("bob", "s3cret")
    guard = Guard(rig.server, uses=4)

    def choose(request: Request) -> faults.Fault | None:
        return faults.Status(401) if request.path == "/token" and guard.given > 1 else guard(request)

    rig.server.choose = choose
    with pytest.raises(Denied, match="refuses a token with the login of 'bob'") as caught:
        rig.fetch()
    assert "s3cret" not in str(caught.value)


def test_who_gets_a_new_token_each_time_and_is_let_in_with_none_is_told_so(rig: Rig) -> None:
    """Docker Hub gives anybody a token, without access where there is none."""
    rig.server.choose = locked(rig.server)
    with pytest.raises(Denied, match="refuses such image without a login"):
        rig.resolve()
    assert len(rig.server.gets("/token")) == ANSWERS_MOST
    rig.server.choose = locked(rig.server, lambda request: request.path not in rig.blobs)
    with pytest.raises(Denied, match="refuses layer of the image"):
        rig.fetch()
    assert len(rig.server.gets()) < 50


def test_layers_come_from_where_the_registry_sends_us_without_our_token(rig: Rig) -> None:
    """Its URLs are good for one GET: then the object store answers 403, and the registry is asked for another one."""
    rig.login = Login("bob", "s3cret")
    guard, served, refused = Guard(rig.server, uses=1000), Counter[str](), []
    with Hostile({f"/store/{digest}": data for digest, data in made().blobs.items()}) as store:

        def redirecting(request: Request) -> faults.Fault | None:
            path = f"/store/{request.path.rpartition('/')[2]}"
            is_sent = request.path in rig.blobs and "authorization" in request.headers
            return faults.Redirect(store.url(f"{path}?signed={served[path]}")) if is_sent else guard(request)

        def expiring(request: Request) -> faults.Fault | None:
            if request.range == (0, 1):
                return None
            if not request.target.endswith(f"?signed={served[request.path]}"):
                refused.append(request.target)
                return faults.Status(403)
            served[request.path] += 1
            return None

        rig.server.choose, store.choose = redirecting, expiring
        assert_right(rig.fetch())
        assert not [request for request in store.gets() if "authorization" in request.headers]
    assert sorted(served.values()) == [1, 2]
    assert len(refused) == 1
