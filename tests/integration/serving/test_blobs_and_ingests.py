"""The server over a real store: what is whole, what is still being fetched, what is gone, what was found wrong."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import BIG, MODEL, SMALL, Peer, ingest_id, name_of, put, read_all, serving, stocked
from stores.making import Model, content, fill, ingesting, records_of

from prestage.cacher.digests import PIECE_BYTES, piece_span
from prestage.cacher.errors import Misconfigured, NotFound
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.serving.protocol import read_meta, read_progress
from prestage.cacher.serving.supervisor import Serving
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.store import Store

BLOB = name_of(BIG)
URL = f"/v1/blobs/{BLOB}"


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A peer of a store that nobody changes."""
    root = tmp_path_factory.mktemp("served") / "store"
    stocked(root)
    with serving(root) as (_, asking):
        yield asking


def test_a_blob_is_served_whole(peer: Peer) -> None:
    answer = peer.ask(URL)
    assert (answer.status, answer.body) == (200, BIG)
    assert answer.headers["etag"] == f'"{BLOB}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert peer.ask(f"/v1/blobs/{name_of(SMALL)}").body == SMALL
    empty = peer.ask(f"/v1/blobs/{name_of(b'')}")
    assert (empty.status, empty.body, empty.headers["content-length"]) == (200, b"", "0")


def test_head_says_the_same_without_the_bytes(peer: Peer) -> None:
    answer = peer.ask(URL, method="HEAD")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", str(len(BIG)))
    part = peer.ask(URL, {"Range": "bytes=-5"}, method="HEAD")
    assert (part.status, part.headers["content-length"]) == (206, "5")


def test_a_part_is_served(peer: Peer) -> None:
    answer = peer.ask(URL, {"Range": f"bytes={PIECE_BYTES - 3}-{PIECE_BYTES + 4}", "If-Match": f'"{BLOB}"'})
    assert (answer.status, answer.body) == (206, BIG[PIECE_BYTES - 3 : PIECE_BYTES + 5])
    assert answer.headers["content-range"] == f"bytes {PIECE_BYTES - 3}-{PIECE_BYTES + 4}/{len(BIG)}"
    assert peer.ask(URL, {"Range": f"bytes={len(BIG)}-"}).status == 416
    assert peer.ask(URL, {"If-Match": '"blake3-tree:other"'}).status == 412
    assert peer.ask(URL, {"If-None-Match": f'"{BLOB}"'}).status == 304


def test_every_piece_is_served_with_its_digest(peer: Peer) -> None:
    for record in records_of(BIG):
        start, stop = piece_span(len(BIG), record.piece)
        answer = peer.ask(f"{URL}/pieces/{record.piece}")
        assert (answer.status, answer.body) == (200, BIG[start:stop])
        assert answer.headers["prestage-piece"] == f"blake3:{record.digest.hex()}"
        tail = peer.ask(f"{URL}/pieces/{record.piece}", {"Range": "bytes=4096-"})
        assert (tail.status, tail.body) == (206, BIG[start + 4096 : stop])
    assert peer.ask(f"{URL}/pieces/3").status == 404


def test_the_meta_proves_the_name(peer: Peer) -> None:
    answer = peer.ask(f"{URL}/meta")
    assert [*read_meta(answer.body, BLOB).pieces] == [record.digest for record in records_of(BIG)]
    assert "hub.test" not in answer.body.decode()
    assert peer.ask(f"{URL}/meta", {"If-None-Match": answer.headers["etag"]}).status == 304


def test_what_is_not_there_is_a_404(peer: Peer) -> None:
    nothing = f"/v1/blobs/blake3-tree:{'0' * 64}"
    for path in (nothing, f"{nothing}/meta", f"{nothing}/pieces/0", f"/v1/ingests/{'0' * 64}", "/v1/blobs/../format"):
        answer = peer.ask(path)
        assert answer.status == 404
        assert answer.json["error"]


def test_without_a_token_nothing_is_said(peer: Peer) -> None:
    for stranger in (Peer(peer.port, None), Peer(peer.port, "wrong")):
        for path in (URL, f"{URL}/meta", f"/v1/ingests/{'0' * 64}", "/nothing"):
            answer = stranger.ask(path)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="prestage"')


def test_one_connection_takes_many_requests_also_at_once(peer: Peer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=30)
    for _ in range(5):
        assert peer.ask_on(connection, URL).body == BIG
        assert peer.ask_on(connection, f"{URL}/pieces/9").status == 404
    connection.close()
    with peer.connect() as sock:
        path = f"/v1/blobs/{name_of(SMALL)}"
        for _ in range(3):
            peer.send(sock, path)
        peer.send(sock, path, "Connection: close")
        raw = read_all(sock)
    assert raw.count(b"HTTP/1.1 200 OK") == 4
    assert raw.count(SMALL) == 4


def test_a_published_ingest_answers_from_its_blob(peer: Peer) -> None:
    name = ingest_id(MODEL, "big.bin")
    progress = read_progress(peer.ask(f"/v1/ingests/{name}?after=0").body, len(BIG))
    assert (progress.blob, progress.records, sorted(progress.pieces)) == (BLOB, 3, [0, 1, 2])
    answer = peer.ask(f"/v1/ingests/{name}/pieces/2")
    assert (answer.status, answer.body) == (200, BIG[2 * PIECE_BYTES :])
    assert answer.headers["prestage-blob"] == BLOB


def test_a_blob_is_served_while_it_is_fetched_and_when_it_is_published(tmp_path: Path) -> None:
    root, records = tmp_path / "store", records_of(BIG)
    name = ingest_id(MODEL, "big.bin")
    with Store.open(root, own=True) as store, serving(root) as (_, peer):
        artifact = store.put_manifest(MODEL.manifest)
        assert peer.ask(f"/v1/ingests/{name}").status == 404
        with store.reserve(MODEL.size_bytes, artifact=artifact), ingesting(store, MODEL, "big.bin") as ingest:
            began = read_progress(peer.ask(f"/v1/ingests/{name}").body, len(BIG))
            assert (began.records, began.blob, dict(began.pieces)) == (0, None, {})
            early = peer.ask(f"/v1/ingests/{name}/pieces/1")
            assert (early.status, early.headers["retry-after"]) == (425, "1")
            waiting: list[bytes] = []
            asking = threading.Thread(target=lambda: waiting.append(peer.ask(f"/v1/ingests/{name}?after=0").body))
            asking.start()
            put(ingest, BIG, 1)
            put(ingest, BIG, 0)
            asking.join()
            told = read_progress(waiting[0], len(BIG))
            assert told.pieces[1] == records[1].digest
            answer = peer.ask(f"/v1/ingests/{name}/pieces/1")
            assert (answer.status, answer.body) == (200, BIG[PIECE_BYTES : 2 * PIECE_BYTES])
            assert answer.headers["prestage-piece"] == f"blake3:{records[1].digest.hex()}"
            more = read_progress(peer.ask(f"/v1/ingests/{name}?after=1&wait=0").body, len(BIG))
            assert (more.first, more.records, [*more.pieces]) == (1, 2, [0])
            nothing = read_progress(peer.ask(f"/v1/ingests/{name}?after=2&wait=0").body, len(BIG))
            assert (nothing.records, [*nothing.pieces]) == (2, [])
            assert peer.ask(f"/v1/ingests/{name}/pieces/2").status == 425
            assert peer.ask(f"/v1/ingests/{name}/pieces/3").status == 404
            assert peer.ask(URL).status == 404
            fill(ingest, BIG)
            store.bind(artifact, {"big.bin": ingest.finish()})
        for _ in range(4):  # both workers, those that had it open too
            done = read_progress(peer.ask(f"/v1/ingests/{name}?after=2").body, len(BIG))
            assert (done.blob, done.records) == (BLOB, 3)
            assert peer.ask(f"/v1/ingests/{name}/pieces/0").headers["prestage-blob"] == BLOB
        assert peer.ask(URL).body == BIG


def test_an_ingest_that_is_dropped_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root, own=True) as store, serving(root) as (_, peer):
        artifact = store.put_manifest(MODEL.manifest)
        name = ingest_id(MODEL, "big.bin")
        with store.reserve(MODEL.size_bytes, artifact=artifact):
            with ingesting(store, MODEL, "big.bin") as ingest:
                fill(ingest, BIG)
                assert peer.ask(f"/v1/ingests/{name}/pieces/0").status == 200
                ingest.quarantine("its digest was wrong")
            for _ in range(4):
                assert peer.ask(f"/v1/ingests/{name}/pieces/0").status == 404
                assert peer.ask(f"/v1/ingests/{name}").status == 404
            with ingesting(store, MODEL, "big.bin"):
                assert peer.ask(f"/v1/ingests/{name}/pieces/0").status == 425


LONG = content(40 << 20, "long")
LONG_MODEL = Model({"long.bin": LONG}, name="hf://org/long@main")


def test_who_reads_a_blob_when_it_is_evicted_gets_all_of_it(tmp_path: Path) -> None:
    root = tmp_path / "store"
    stocked(root, LONG_MODEL)
    with serving(root) as (_, peer), peer.connect(receive_buffer=4096) as sock:
        peer.send(sock, f"/v1/blobs/{name_of(LONG)}", "Connection: close")
        first = sock.recv(1000)
        with Store.open(root, own=True) as store:
            store.evict(LONG_MODEL.artifact)
        assert peer.ask(f"/v1/blobs/{name_of(LONG)}").status == 404
        raw = first + read_all(sock)
        assert raw.partition(b"\r\n\r\n")[2] == LONG


def test_who_reads_a_blob_when_it_is_quarantined_is_cut_off(tmp_path: Path) -> None:
    root = tmp_path / "store"
    stocked(root, LONG_MODEL)
    with serving(root) as (_, peer), peer.connect(receive_buffer=4096) as sock:
        peer.send(sock, f"/v1/blobs/{name_of(LONG)}", "Connection: close")
        first = sock.recv(1000)
        with Store.open(root, own=True) as store:
            store._parts.blobs.quarantine(name_of(LONG))
        assert peer.ask(f"/v1/blobs/{name_of(LONG)}").status == 404
        with pytest.raises(ConnectionResetError):
            raise AssertionError(len(first + read_all(sock)))


def test_a_blob_whose_meta_is_lost_or_wrong_is_not_served(tmp_path: Path) -> None:
    root = tmp_path / "store"
    stocked(root)
    with Store.open(root, own=False) as store:
        meta = store._parts.layout.meta(BLOB)
    with serving(root) as (_, peer):
        assert peer.ask(URL, method="HEAD").status == 200
        raw = meta.read_bytes()
        meta.unlink()
        assert peer.ask(URL).status == 404
        meta.write_bytes(raw.replace(b'"pieces": "', b'"pieces": "ff'))
        assert peer.ask(URL).status == 404
        assert peer.ask(f"{URL}/meta").status == 404
        meta.unlink()
        meta.write_bytes(raw)
        assert peer.ask(URL).body == BIG


def test_what_cannot_be_read_is_a_503_and_others_go_on(tmp_path: Path) -> None:
    root = tmp_path / "store"
    stocked(root)
    with serving(root) as (_, peer):
        path = Layout(root).blob(BLOB)
        path.unlink()
        path.symlink_to(tmp_path / "token")
        answer = peer.ask(URL)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert b"a-token" not in answer.body
        assert peer.ask(f"/v1/blobs/{name_of(SMALL)}").body == SMALL


def test_serving_writes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    stocked(root)

    def state() -> list[tuple[str, int, int]]:
        return sorted((str(path), path.lstat().st_mtime_ns, path.lstat().st_size) for path in root.rglob("*"))

    before = state()
    with serving(root) as (_, peer):
        for path in (URL, f"{URL}/meta", f"/v1/ingests/{ingest_id(MODEL, 'big.bin')}", f"/v1/ingests/{'0' * 64}"):
            peer.ask(path)
    assert state() == before


def test_what_cannot_be_served_is_said_at_the_start(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t\n")
    with pytest.raises(NotFound):
        Serving(ServingConfig(tmp_path / "none", token)).start()
    stocked(tmp_path / "store", Model({"a": b"a"}))
    with pytest.raises(Misconfigured, match="holds no token"):
        Serving(ServingConfig(tmp_path / "store", tmp_path / "absent")).start()
    with serving(tmp_path / "store") as (running, _), pytest.raises(Misconfigured, match="cannot listen"):
        Serving(ServingConfig(tmp_path / "store", token, port=running.port)).start()
