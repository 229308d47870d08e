"""Workers that have served for long hold what they held at first: descriptors, memory."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest
from serving import MODEL, SMALL, Peer, ingest_id, name_of, serving
from stores.making import Model, stage

from prestage.cacher.serving.supervisor import Serving
from prestage.cacher.store.store import Store

ROUNDS = 150


def workers(running: Serving) -> list[Path]:
    return [Path(f"/proc/{slot.process.pid}") for slot in running._slots if slot.process is not None]


def descriptors(running: Serving) -> list[int]:
    return [len(list((worker / "fd").iterdir())) for worker in workers(running)]


def resident_kib(running: Serving) -> list[int]:
    lines = [line for worker in workers(running) for line in (worker / "status").read_text().splitlines()]
    return [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]


def ask_for_everything(peer: Peer, model: Model, path: str) -> None:
    name, ingest = name_of(model.contents[path]), ingest_id(model, path)
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=30)
    questions = [f"/v1/blobs/{name}", f"/v1/blobs/{name}/meta", f"/v1/blobs/{name}/pieces/0", f"/v1/ingests/{ingest}?after=0"]
    for question in [*questions, f"/v1/ingests/{ingest}/pieces/0", f"/v1/ingests/{'0' * 64}", "/nothing"]:
        assert peer.ask_on(connection, question).status in (200, 404)
    connection.close()
    with peer.connect() as sock:  # leaves in the middle
        peer.send(sock, f"/v1/blobs/{name_of(model.contents['big.bin'])}")
        sock.recv(10)


@pytest.mark.slow
def test_after_thousands_of_requests_and_hundreds_of_evicts_nothing_has_grown(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root, own=True) as store, serving(root) as (running, peer):
        stage(store, MODEL)
        first: tuple[list[int], list[int]] | None = None
        for number in range(ROUNDS):
            small = SMALL + b"%d" % number
            passing = Model({"small.bin": small, "big.bin": MODEL.contents["big.bin"]}, version=str(number + 2))
            stage(store, passing)
            ask_for_everything(peer, passing, "small.bin")
            store.evict(passing.artifact)
            if number == ROUNDS // 3:
                first = descriptors(running), resident_kib(running)
        assert first is not None
        assert running.stats().restarts == 0
        for before, after in zip(first[0], descriptors(running), strict=True):
            assert after <= before + 8  # connections that are just leaving
        for before, after in zip(first[1], resident_kib(running), strict=True):
            assert after <= before + 4096
