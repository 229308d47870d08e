"""A store that fetches from other stores: proved piece by piece, whatever a peer does meanwhile."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from serving import BIG, MODEL, TOKEN, ingest_id, name_of, put, serving, stocked
from stores.making import Model, content, fill, ingesting, records_of

from prestage.cacher.digests import PIECE_BYTES, BlobId, piece_count
from prestage.cacher.errors import Corrupt, Unavailable
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.serving.peer import IngestId, Peer, PeerSource
from prestage.cacher.serving.protocol import Meta, Progress
from prestage.cacher.serving.supervisor import Serving
from prestage.cacher.store.ingest import Ingest
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.flight import Transfer
from prestage.cacher.transfer.job import Job
from prestage.cacher.transfer.limits import Limits
from prestage.cacher.transfer.ports import Cancelled
from servers.listening import Listening

QUICK = Limits(connections_start=2, connections_max=2, backoff_base_s=0.01, backoff_cap_s=0.05, journal_interval_s=0.05)
BLOB = name_of(BIG)
LONG = content(6 * PIECE_BYTES + 77, "long")
LONG_MODEL = Model({"long.bin": LONG}, name="hf://org/long@main")


@pytest.fixture
def client() -> Iterator[HttpClient]:
    http = HttpClient(NetConfig(idle_timeout_s=5, connect_timeout_s=5, proxies={"all": "http://127.0.0.1:1"}))
    yield http
    http.close()


def as_peer(running: Serving) -> Peer:
    return Peer(f"http://127.0.0.1:{running.port}", TOKEN)


def source(client: HttpClient, peers: list[Peer], of: str = BLOB, size_bytes: int = len(BIG)) -> PeerSource:
    return PeerSource(client, peers, BlobId(of) if ":" in of else IngestId(of), size_bytes)


def move(ingest: Ingest, peers: PeerSource, cancel: threading.Event | None = None, limits: Limits = QUICK) -> Job:
    with Engine(limits) as engine:
        return engine.fetch([Transfer("big.bin", peers, ingest, proof=peers)], cancel=cancel)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Store]:
    """The store that fetches."""
    with Store.open(tmp_path / "here", own=True) as store:
        yield store


@pytest.fixture
def wanted(here: Store) -> Iterator[Ingest]:
    """What it fetches: big.bin, nothing of it here."""
    artifact = here.put_manifest(MODEL.manifest)
    with here.reserve(MODEL.size_bytes, artifact=artifact), ingesting(here, MODEL, "big.bin") as ingest:
        yield ingest


def spoil(root: Path, blob: str, at: int) -> None:
    """One byte on the disk is not what it was; nobody has noticed yet."""
    path = Layout(root).blob(BlobId(blob))
    path.chmod(0o644)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 1]), at)
    os.close(fd)


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not holds():
        pause.wait(0.02)


def test_a_blob_comes_from_a_peer_and_is_the_same_blob(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    stocked(tmp_path / "there")
    with serving(tmp_path / "there") as (running, _):
        peers = source(client, [as_peer(running)])
        job = move(wanted, peers)
    assert dict(job.bytes_by_source) == {"peer": len(BIG)}
    assert wanted.finish() == BLOB
    assert peers.troubles == []


def test_a_peer_that_lies_is_named_and_the_piece_comes_from_another(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    for name in ("bad", "good"):
        stocked(tmp_path / name)
    spoil(tmp_path / "bad", BLOB, PIECE_BYTES + 9)
    with ExitStack() as running:
        both = [as_peer(running.enter_context(serving(tmp_path / name))[0]) for name in ("bad", "good")]
        peers = source(client, both)
        while True:  # until the spoilt piece was asked of the one that has it spoilt
            job = move(wanted, peers)
            if peers.troubles:
                break
            wanted._records.clear()
    assert len(peers.troubles) == 1
    assert peers.troubles[0].startswith(f"{both[0].url}: its bytes of piece 1 are not")
    assert dict(job.bytes_by_source) == {"peer": len(BIG)}
    assert wanted.finish() == BLOB


def test_when_every_peer_lies_the_error_names_them_and_nothing_wrong_is_journaled(
    tmp_path: Path, wanted: Ingest, client: HttpClient
) -> None:
    stocked(tmp_path / "there")
    spoil(tmp_path / "there", BLOB, PIECE_BYTES + 9)
    with serving(tmp_path / "there") as (running, _):
        with pytest.raises(Corrupt, match=f"{as_peer(running).url}: its bytes of piece 1") as caught:
            move(wanted, source(client, [as_peer(running)]))
        assert "verify" in str(caught.value)
    assert 1 not in wanted.journaled()
    put(wanted, BIG, 1)  # the origin
    fill(wanted, BIG)
    assert wanted.finish() == BLOB


def test_a_peer_whose_list_of_pieces_is_of_other_bytes_is_not_believed(wanted: Ingest, client: HttpClient) -> None:
    other = records_of(content(len(BIG), "other"))
    meta = Meta(len(BIG), [record.digest for record in other], b"".join(record.chunk_sums for record in other)).to_bytes()

    def lie(connection: socket.socket, number: int) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(meta) + meta)

    with Listening(lie) as server, pytest.raises(Corrupt, match=f"127.0.0.1:{server.port}: the meta of {BLOB} is of other bytes"):
        move(wanted, source(client, [Peer(f"http://127.0.0.1:{server.port}", TOKEN)]))
    assert not wanted.journaled()


def test_a_peer_that_babbles_is_left_and_takes_no_memory(wanted: Ingest, client: HttpClient) -> None:
    said: list[int] = []

    def babble(connection: socket.socket, number: int) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        said.append(0)
        while True:
            connection.sendall(b"[" * 65536)
            said[-1] += 65536

    with Listening(babble) as server, pytest.raises(Unavailable, match="too-large"):
        move(wanted, source(client, [Peer(f"http://127.0.0.1:{server.port}", TOKEN)]))
    assert len(said) == 3
    assert max(said) < 32 << 20  # what socket buffers hold


def test_a_peer_that_vanishes_is_replaced_by_another(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    for name in ("first", "second"):
        stocked(tmp_path / name)
    with serving(tmp_path / "second") as (second, _), serving(tmp_path / "first", rate_bytes_per_s=20e6) as (first, _):
        peers = source(client, [as_peer(first), as_peer(second)])
        begun = threading.Thread(target=first.stop, args=(0.0,))
        begun.start()
        move(wanted, peers)
        begun.join()
    assert wanted.finish() == BLOB


def test_when_the_only_peer_vanishes_what_came_stays_and_the_origin_goes_on(
    tmp_path: Path, wanted: Ingest, client: HttpClient
) -> None:
    stocked(tmp_path / "there")
    with serving(tmp_path / "there", rate_bytes_per_s=15e6) as (running, _):
        peers = source(client, [as_peer(running)])

        def vanish() -> None:
            until(lambda: bool(wanted.journaled()))
            running.stop(0.0)

        vanishing = threading.Thread(target=vanish)
        vanishing.start()
        with pytest.raises(Unavailable, match="no peer is left") as caught:
            move(wanted, peers, limits=replace(QUICK, connections_start=1, connections_max=1))
        vanishing.join()
    assert "origin" in str(caught.value)
    assert 0 < len(wanted.journaled()) < piece_count(len(BIG))
    fill(wanted, BIG)
    assert wanted.finish() == BLOB


def test_a_peer_that_evicts_the_blob_has_it_no_more(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    stocked(tmp_path / "there")
    with serving(tmp_path / "there") as (running, _):
        peers = source(client, [as_peer(running)])
        with Store.open(tmp_path / "there", own=True) as there:
            there.evict(MODEL.artifact)
        with pytest.raises(Unavailable, match="it has the file no more"):
            move(wanted, peers)
    assert not wanted.journaled()


def test_a_peer_that_does_not_let_us_in_is_named(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    stocked(tmp_path / "there")
    with serving(tmp_path / "there") as (running, _):
        stranger = Peer(as_peer(running).url, "wrong-token")
        with pytest.raises(Unavailable, match="does not let us in") as caught:
            move(wanted, source(client, [stranger]))
    assert "wrong-token" not in f"{caught.value} {stranger!r}"


def test_a_busy_peer_is_asked_again(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    stocked(tmp_path / "there")
    with serving(tmp_path / "there", connections=1, workers=1) as (running, peer):
        peers = source(client, [as_peer(running)])
        crowd = peer.connect()
        leaving = threading.Timer(0.2, crowd.close)
        leaving.start()
        move(wanted, peers)
        leaving.join()
    assert wanted.finish() == BLOB


def test_a_blob_comes_from_a_peer_that_is_still_fetching_it(tmp_path: Path, here: Store, client: HttpClient) -> None:
    name = ingest_id(LONG_MODEL, "long.bin")
    artifact = here.put_manifest(LONG_MODEL.manifest)
    with Store.open(tmp_path / "there", own=True) as there, serving(tmp_path / "there") as (running, _):
        there.put_manifest(LONG_MODEL.manifest)
        with (
            here.reserve(len(LONG), artifact=artifact),
            ingesting(here, LONG_MODEL, "long.bin") as mine,
            there.reserve(len(LONG), artifact=artifact),
            ingesting(there, LONG_MODEL, "long.bin") as theirs,
        ):
            peers = source(client, [as_peer(running)], name, len(LONG))
            fetching = threading.Thread(target=move, args=(mine, peers))
            fetching.start()
            for piece in (0, 2, 1, 4):
                put(theirs, LONG, piece)
            for piece in (0, 1, 2, 4):
                while piece not in mine.journaled():
                    assert fetching.is_alive()
                    fetching.join(0.02)
            assert set(mine.journaled()) == {0, 1, 2, 4}  # while the peer has no more itself
            fill(theirs, LONG)
            there.bind(artifact, {"long.bin": theirs.finish()})  # published meanwhile: it answers from the blob
            fetching.join()
            assert mine.finish() == name_of(LONG)
    assert peers.troubles == []


def test_who_waits_for_a_peer_that_is_still_fetching_can_be_cancelled(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    with Store.open(tmp_path / "there", own=True) as there, serving(tmp_path / "there") as (running, _):
        artifact = there.put_manifest(MODEL.manifest)
        with there.reserve(MODEL.size_bytes, artifact=artifact), ingesting(there, MODEL, "big.bin"):
            cancel = threading.Event()
            threading.Timer(0.3, cancel.set).start()
            with pytest.raises(Cancelled):
                move(wanted, source(client, [as_peer(running)], ingest_id(MODEL, "big.bin")), cancel)


def test_a_peer_whose_ingest_stands_still_is_left(
    tmp_path: Path, wanted: Ingest, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prestage.cacher.serving.peer._STALL_S", 0.5)
    with Store.open(tmp_path / "there", own=True) as there, serving(tmp_path / "there") as (running, _):
        artifact = there.put_manifest(MODEL.manifest)
        with there.reserve(MODEL.size_bytes, artifact=artifact), ingesting(there, MODEL, "big.bin") as theirs:
            put(theirs, BIG, 0)
            with pytest.raises(Unavailable, match="made no progress"):
                move(wanted, source(client, [as_peer(running)], ingest_id(MODEL, "big.bin")))
    assert list(wanted.journaled()) == [0]


def test_a_peer_that_answers_nothing_new_at_once_is_not_asked_without_end(
    wanted: Ingest, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prestage.cacher.serving.peer._STALL_S", 1.0)
    nothing = Progress(len(BIG), 0, 0).to_bytes()
    asked: list[int] = []

    def answer(connection: socket.socket, number: int) -> None:
        while connection.recv(4096):
            asked.append(number)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(nothing) + nothing)

    with Listening(answer) as server, pytest.raises(Unavailable, match="made no progress"):
        move(wanted, source(client, [Peer(f"http://127.0.0.1:{server.port}", TOKEN)], ingest_id(MODEL, "big.bin")))
    client.close()
    assert 1 < len(asked) < 200


def test_a_peer_that_gives_up_its_ingest_has_it_no_more(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    with Store.open(tmp_path / "there", own=True) as there, serving(tmp_path / "there") as (running, _):
        artifact = there.put_manifest(MODEL.manifest)
        with there.reserve(MODEL.size_bytes, artifact=artifact), ingesting(there, MODEL, "big.bin") as theirs:
            put(theirs, BIG, 0)

            def give_up() -> None:
                until(lambda: bool(wanted.journaled()))
                theirs.discard()

            giving_up = threading.Thread(target=give_up)
            giving_up.start()
            with pytest.raises(Unavailable, match="it has the file no more"):
                move(wanted, source(client, [as_peer(running)], ingest_id(MODEL, "big.bin")))
            giving_up.join()
    assert list(wanted.journaled()) == [0]


def test_bytes_that_were_damaged_on_the_way_are_fetched_again_by_ingest(
    tmp_path: Path, wanted: Ingest, client: HttpClient
) -> None:
    stocked(tmp_path / "there")
    spoil(tmp_path / "there", BLOB, 5)
    with serving(tmp_path / "there") as (running, _), pytest.raises(Corrupt, match="piece 0"):
        move(wanted, source(client, [as_peer(running)], ingest_id(MODEL, "big.bin")))
    assert 0 not in wanted.journaled()


def test_a_plan_with_the_wrong_size_is_refused(tmp_path: Path, wanted: Ingest, client: HttpClient) -> None:
    stocked(tmp_path / "there")
    with serving(tmp_path / "there") as (running, _), pytest.raises(Corrupt, match="bytes, not"):
        move(wanted, source(client, [as_peer(running)], name_of(content(5000, "small"))))
