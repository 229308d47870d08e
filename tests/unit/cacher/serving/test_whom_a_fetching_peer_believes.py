"""Who is blamed for a piece that came wrong, and who is asked next: decisions, without a network."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from serving import BIG, name_of
from stores.making import records_of

from prestage.cacher.errors import Corrupt
from prestage.cacher.net.client import HttpClient
from prestage.cacher.serving.peer import IngestId, Peer, PeerSource
from prestage.cacher.serving.protocol import Meta
from prestage.cacher.transfer.ports import Fatal, PieceRecord, Retry

RECORDS = records_of(BIG)
META = Meta(len(BIG), [record.digest for record in RECORDS], b"".join(record.chunk_sums for record in RECORDS))
WRONG = PieceRecord(0, RECORDS[0].size_bytes, b"\0" * 32, RECORDS[0].chunk_sums)


@pytest.fixture
def client() -> Iterator[HttpClient]:
    http = HttpClient()
    yield http
    http.close()


@pytest.fixture
def by_blob(client: HttpClient) -> PeerSource:
    """At the peers a, b and c, its list of pieces proved."""
    peers = [Peer(f"http://{name}:1", "t") for name in "abc"]
    source = PeerSource(client, peers, name_of(BIG), len(BIG))
    source._meta = META
    return source


def gave(source: PeerSource, *numbers: int, piece: int = 0) -> None:
    for number in numbers:
        source.gave(source._seats[number], piece << 24)


def test_who_alone_gave_a_wrong_piece_is_asked_no_more(by_blob: PeerSource) -> None:
    gave(by_blob, 1)
    with pytest.raises(Retry, match="http://b:1"):
        by_blob.check(WRONG)
    assert by_blob.troubles == ["http://b:1: its bytes of piece 0 are not what their digest says"]
    assert {by_blob._choose(0).peer.url for _ in range(3)} <= {"http://a:1", "http://c:1"}


def test_of_several_givers_none_is_condemned_the_first_time(by_blob: PeerSource) -> None:
    gave(by_blob, 0, 1)
    with pytest.raises(Retry, match="http://a:1, http://b:1"):
        by_blob.check(WRONG)
    assert by_blob.troubles == []
    gave(by_blob, 1, 2)
    with pytest.raises(Retry):
        by_blob.check(WRONG)
    assert [line.split(": ")[0] for line in by_blob.troubles] == ["http://b:1"]


def test_who_gave_a_wrong_piece_is_forgotten_once_it_is_fetched_again(by_blob: PeerSource) -> None:
    gave(by_blob, 0)
    with pytest.raises(Retry):
        by_blob.check(WRONG)
    gave(by_blob, 1)
    by_blob.check(RECORDS[0])
    assert len(by_blob.troubles) == 1


def test_when_all_lied_the_error_names_each_of_them(by_blob: PeerSource) -> None:
    for number in range(2):
        gave(by_blob, number)
        with pytest.raises(Retry):
            by_blob.check(WRONG)
    gave(by_blob, 2)
    with pytest.raises(Fatal) as caught:
        by_blob.check(WRONG)
    assert isinstance(caught.value.error, Corrupt)
    assert all(f"http://{name}:1" in str(caught.value.error) for name in "abc")


def test_the_peer_with_the_fewest_streams_and_failures_is_asked(by_blob: PeerSource) -> None:
    a, b, c = by_blob._seats
    a.streams, b.streams, c.streams = 2, 1, 0
    assert by_blob._choose(0) is c
    c.failures = 1
    assert by_blob._choose(0) is b
    b.busy_until = float("inf")
    assert by_blob._choose(0) is a


def test_by_ingest_a_peer_is_held_to_its_own_words(client: HttpClient) -> None:
    source = PeerSource(client, [Peer("http://a:1", "t"), Peer("http://b:1", "t")], IngestId("0" * 64), len(BIG))
    source._seats[0].pieces[0] = RECORDS[0].digest
    source._seats[1].pieces[0] = b"\1" * 32
    gave(source, 0)
    source.check(RECORDS[0])
    gave(source, 1)
    with pytest.raises(Retry, match="http://b:1"):
        source.check(RECORDS[0])


def test_an_aborted_stream_ends_before_it_asks_anybody(by_blob: PeerSource) -> None:
    aborted = threading.Event()
    aborted.set()
    with pytest.raises(Retry, match="aborted"):
        by_blob._await(1, aborted)


def test_without_peers_nothing_can_be_had(client: HttpClient) -> None:
    source = PeerSource(client, [], name_of(BIG), len(BIG))
    stream = source.open(0, 10)
    with pytest.raises(Fatal, match="there is none"):
        stream.readinto(memoryview(bytearray(10)))
    stream.close()
