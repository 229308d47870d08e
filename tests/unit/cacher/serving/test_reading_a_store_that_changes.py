"""The tree, the ingests and the aliases, read beside an owner that publishes and lets go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import BIG, MODEL, SMALL, ingest_id, name_of, put
from stores.making import Model, fill, ingesting, stage

from prestage.cacher.errors import Corrupt, NotFound
from prestage.cacher.serving.ingests import Aliases, Ingests
from prestage.cacher.serving.tree import Tree
from prestage.cacher.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", own=True) as opened:
        yield opened


@pytest.fixture
def tree(store: Store) -> Tree:
    return Tree(store.root)


@pytest.fixture
def ingests(tree: Tree) -> Iterator[Ingests]:
    reading = Ingests(tree)
    yield reading
    reading.close()


def test_aliases_follow_what_is_published_and_let_go(store: Store, tree: Tree) -> None:
    aliases, name = Aliases(tree), ingest_id(MODEL, "small.bin")
    assert aliases.find(name) is None
    stage(store, MODEL)
    assert aliases.find(name) == name_of(SMALL)
    same = Model({"other.bin": SMALL}, name="hf://org/other@main", authority="hf:https://hub.test/org/other")
    stage(store, same)
    assert aliases.find(ingest_id(same, "other.bin")) == name_of(SMALL)
    assert aliases.find(name) == name_of(SMALL)
    store.evict(MODEL.artifact)
    store.evict(same.artifact)
    assert aliases.find(name) is None
    assert aliases._blobs == {}
    assert not any(shelf.metas for shelf in aliases._shelves.values())


def test_an_ingest_says_what_it_became_without_a_look_at_the_metas(
    store: Store, ingests: Ingests, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, artifact = ingest_id(MODEL, "big.bin"), store.put_manifest(MODEL.manifest)
    with store.reserve(MODEL.size_bytes, artifact=artifact), ingesting(store, MODEL, "big.bin") as ingest:
        put(ingest, BIG, 1)
        assert ingests.progress(name, 0).records == 1
        fill(ingest, BIG)
        ingest.finish()
    monkeypatch.setattr(Aliases, "find", lambda *_: pytest.fail("read the metas"))
    assert ingests.piece(name, 0) == name_of(BIG)
    assert ingests.progress(name, 3).blob == name_of(BIG)


def test_what_was_dropped_and_begun_anew_is_not_taken_for_the_old(store: Store, ingests: Ingests) -> None:
    name, artifact = ingest_id(MODEL, "big.bin"), store.put_manifest(MODEL.manifest)
    with store.reserve(MODEL.size_bytes, artifact=artifact):
        with ingesting(store, MODEL, "big.bin") as ingest:
            put(ingest, BIG, 0)
            put(ingest, BIG, 1)
            assert ingests.progress(name, 0).records == 2
            ingest.discard()
        with pytest.raises(NotFound):
            ingests.progress(name, 0)
        with ingesting(store, MODEL, "big.bin") as ingest:
            put(ingest, BIG, 2)
            again = ingests.progress(name, 2)  # a cursor of the old one: all of the new
            assert (again.first, again.records, [*again.pieces]) == (0, 1, [2])
            assert ingests.piece(name, 0) is None


def test_only_so_many_ingests_are_kept_open(store: Store, ingests: Ingests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prestage.cacher.serving.ingests._OPEN_INGESTS", 1)
    model = Model({"big.bin": BIG, "other.bin": BIG[::-1]})
    artifact = store.put_manifest(model.manifest)
    room = store.reserve(model.size_bytes, artifact=artifact)
    with room, ingesting(store, model, "big.bin") as big, ingesting(store, model, "other.bin") as other:
        put(big, BIG, 0)
        put(other, BIG[::-1], 0)
        for _ in range(2):
            for path in ("big.bin", "other.bin"):
                assert ingests.progress(ingest_id(model, path), 0).records == 1
        assert len(ingests._open) == 1


def test_a_torn_journal_says_what_is_whole_of_it(store: Store, ingests: Ingests) -> None:
    name, artifact = ingest_id(MODEL, "big.bin"), store.put_manifest(MODEL.manifest)
    with store.reserve(MODEL.size_bytes, artifact=artifact), ingesting(store, MODEL, "big.bin") as ingest:
        put(ingest, BIG, 0)
        journal = ingest.path / "journal"
        whole = journal.read_bytes()
        put(ingest, BIG, 1)
        second = journal.read_bytes()[len(whole) :]
        for tail, records in ((b"", 1), (second[:60], 1), (second[:-1] + b"\0", 1), (second, 2)):
            journal.write_bytes(whole + tail)
            assert ingests.progress(name, 0).records == records


def test_a_blob_of_another_size_than_its_meta_says_is_not_opened(store: Store, tree: Tree) -> None:
    stage(store, MODEL)
    path = tree.layout.blob(name_of(SMALL))
    path.chmod(0o644)
    path.write_bytes(SMALL[:-1])
    with pytest.raises(Corrupt, match="4999 bytes instead of 5000"):
        tree.open(name_of(SMALL))


def test_a_link_in_place_of_a_blob_is_not_followed(store: Store, tree: Tree, tmp_path: Path) -> None:
    stage(store, MODEL)
    (tmp_path / "secret").write_bytes(SMALL)
    path = tree.layout.blob(name_of(SMALL))
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        tree.open(name_of(SMALL))


def test_quarantined_is_told_from_evicted(store: Store, tree: Tree) -> None:
    stage(store, MODEL)
    (big, _), (small, _) = tree.open(name_of(BIG)), tree.open(name_of(SMALL))
    assert tree.is_sound(big)
    assert tree.is_sound(small)
    store._parts.blobs.quarantine(name_of(BIG))
    assert not tree.is_sound(big)
    store.evict(MODEL.artifact)
    assert tree.is_sound(small)
    big.close()
    small.close()
