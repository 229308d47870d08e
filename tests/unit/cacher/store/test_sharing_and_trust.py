"""Who may use whose bytes: identity, dedupe, reuse, and that knowing a digest grants nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stores.making import Model, Steps, blob_of, content, fetch, fill, ingesting, stage
from stores.scenarios import OTHER, SHARING, SMALL, is_whole

from prestage.cacher.digests import BlobId, Digest, hex_of
from prestage.cacher.errors import Busy, Corrupt, Misconfigured, NotFound
from prestage.cacher.manifest import Manifest
from prestage.cacher.store.store import Store

WEIGHTS = content(9001, "secret weights")
OWNER = Model({"w.bin": WEIGHTS}, "hf://owner/model@main", "hf:https://hub.test/owner/model")
THIEF = Model({"w.bin": WEIGHTS}, "hf://thief/model@main", "hf:https://hub.test/thief/model")


@pytest.fixture
def store(fast_path: Path) -> Iterator[Store]:
    with Store.open(fast_path / "store", own=True) as store:
        yield store


def blobs_on_disk(store: Store) -> set[str]:
    return {path.name for path in (store.root / "blobs").glob("??/*") if path.suffix != ".meta"}


def reusable(store: Store, model: Model, path: str = "w.bin") -> BlobId | None:
    return store.reusable(model.manifest, next(file for file in model.manifest.files if file.path == path))


def test_a_second_origin_that_claims_the_sha256_of_the_first_gets_nothing_without_download(store: Store) -> None:
    stage(store, OWNER)
    assert reusable(store, THIEF) is None
    steps = Steps()
    stage(store, THIEF, steps)
    assert steps.fetched == ["w.bin"], "the thief had to bring the bytes itself"
    assert blobs_on_disk(store) == {hex_of(blob_of(WEIGHTS))}, "and then shares the blob"


def test_after_bringing_the_bytes_itself_the_second_origin_may_reuse_them(store: Store) -> None:
    stage(store, OWNER)
    stage(store, THIEF)
    assert reusable(store, replace(THIEF, version="2")) == blob_of(WEIGHTS)


def test_an_origin_that_the_operator_trusts_is_believed(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, trusted=frozenset({THIEF.authority})) as store:
        stage(store, OWNER)
        assert reusable(store, THIEF) == blob_of(WEIGHTS)


def test_trust_in_an_origin_does_not_extend_to_files_without_a_digest(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, trusted=frozenset({THIEF.authority})) as store:
        stage(store, OWNER)
        assert reusable(store, replace(THIEF, states_sha256=False)) is None


def test_a_claimed_digest_with_another_size_is_not_believed(store: Store) -> None:
    stage(store, OWNER)
    manifest = OWNER.manifest
    file = replace(manifest.files[0], size_bytes=9000)
    assert store.reusable(replace(manifest, files=(file,)), file) is None


def test_another_revision_of_the_same_repository_reuses_what_it_shares(store: Store) -> None:
    stage(store, SMALL)
    steps = Steps()
    stage(store, SHARING, steps)
    assert steps.fetched == ["config.json"]
    assert is_whole(store, SHARING)


def test_the_same_file_at_the_same_version_is_reused_without_a_digest(store: Store) -> None:
    plain = replace(OWNER, states_sha256=False)
    stage(store, plain)
    wider = replace(plain, contents={**plain.contents, "more.txt": b"more"})
    assert wider.artifact != plain.artifact
    assert reusable(store, wider) == blob_of(WEIGHTS)


def test_a_file_that_nothing_pins_is_never_reused_by_another_artifact(store: Store) -> None:
    plain = replace(OWNER, states_sha256=False)
    manifest = plain.manifest
    unpinned = replace(manifest, files=(replace(manifest.files[0], etag=None),))
    store.put_manifest(unpinned)
    ingest = store.ingest(unpinned, unpinned.files[0])
    fill(ingest, WEIGHTS)
    store.bind(unpinned.artifact, {"w.bin": ingest.finish()})
    assert store.reusable(replace(unpinned, revision="other"), unpinned.files[0]) is None
    assert store.missing(unpinned.artifact) == []


def test_reuse_survives_a_lost_index_and_a_cut_before_the_binding(fast_path: Path) -> None:
    plain = replace(OWNER, states_sha256=False)
    with Store.open(fast_path / "store", own=True) as store:
        store.put_manifest(plain.manifest)
        with ingesting(store, plain, "w.bin") as ingest:
            fill(ingest, WEIGHTS)
            ingest.finish()
    (fast_path / "store" / "index.db").unlink()
    with Store.open(fast_path / "store", own=True) as store:
        steps = Steps()
        stage(store, plain, steps)
        assert steps.fetched == []


def test_a_quarantined_blob_is_not_reused(store: Store) -> None:
    stage(store, SMALL)
    blob = store.binding(SMALL.artifact)["sub/dir/weights.bin"]
    path = store.root / "blobs" / hex_of(blob)[:2] / hex_of(blob)
    path.chmod(0o600)
    path.write_bytes(b"x" * 9001)
    assert store.verify().quarantined
    assert reusable(store, SHARING, "weights.bin") is None


def test_equal_files_of_one_artifact_take_the_room_of_one(store: Store) -> None:
    twice = Model({"a.bin": WEIGHTS, "b.bin": WEIGHTS}, "s3://bucket/twice/", "s3:bucket")
    stage(store, twice)
    assert is_whole(store, twice)
    assert len(blobs_on_disk(store)) == 1
    tree = store.path(twice.artifact)
    assert (tree / "a.bin").samefile(tree / "b.bin")
    assert store.used_bytes() < 2 * len(WEIGHTS)


def test_two_nodes_name_one_version_alike_before_and_after_its_bytes_are_there(fast_path: Path) -> None:
    trees = []
    for node in ("one", "two"):
        with Store.open(fast_path / node, own=True) as store:
            assert store.put_manifest(SMALL.manifest) == SMALL.artifact
            stage(store, SMALL)
            assert [row.artifact for row in store.list()] == [SMALL.artifact]
            trees.append(dict(store.binding(SMALL.artifact)))
    assert trees[0] == trees[1]


def test_one_version_with_two_contents_is_a_corrupt_origin_and_both_are_named(store: Store) -> None:
    stage(store, OWNER)
    other = blob_of(b"other bytes")
    with pytest.raises(Corrupt) as caught:
        store.bind(OWNER.artifact, {"w.bin": other})
    assert other in caught.value.message
    assert blob_of(WEIGHTS) in caught.value.message
    assert is_whole(store, OWNER)


def test_evicting_one_of_two_that_share_leaves_the_other_whole(store: Store) -> None:
    stage(store, SMALL)
    stage(store, SHARING)
    store.evict(SMALL.artifact)
    assert is_whole(store, SHARING)
    assert store.verify().bad == []
    with pytest.raises(NotFound, match="not in this store"):
        store.path(SMALL.artifact)


def test_a_file_that_is_being_fetched_is_not_fetched_twice_at_once(store: Store) -> None:
    store.put_manifest(SMALL.manifest)
    first = store.ingest(SMALL.manifest, SMALL.manifest.files[0])
    with pytest.raises(Busy, match="being fetched"):
        store.ingest(SMALL.manifest, SMALL.manifest.files[0])
    first.close()
    with ingesting(store, SMALL, "config.json") as ingest:
        assert list(ingest.journaled()) == []


def test_an_unbound_blob_is_found_by_the_next_stage(store: Store) -> None:
    store.put_manifest(OWNER.manifest)
    with ingesting(store, OWNER, "w.bin") as ingest:
        fill(ingest, WEIGHTS)
        ingest.finish()
    steps = Steps()
    stage(store, OWNER, steps)
    assert steps.fetched == []


def test_a_checksum_of_an_unknown_kind_is_refused(store: Store) -> None:
    manifest: Manifest = OWNER.manifest
    file = replace(manifest.files[0], checksum=Digest("md4:00"))
    with pytest.raises(Misconfigured, match="md4"):
        store.ingest(manifest, file)
    fetch_after = Steps()
    store.put_manifest(manifest)
    fetch(store, OWNER, "w.bin", fetch_after)
    assert fetch_after.fetched == ["w.bin"]


@pytest.mark.parametrize("model", [SMALL, OTHER])
def test_a_published_file_cannot_be_written_by_mistake(store: Store, model: Model) -> None:
    stage(store, model)
    for path in store.path(model.artifact).rglob("*"):
        assert path.stat().st_mode & 0o222 == 0
