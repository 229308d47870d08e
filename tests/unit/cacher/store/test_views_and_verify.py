"""Views as a user and a loader see them, and what verifying finds and mends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stores.making import Model, Steps, blob_of, content, sha256, stage
from stores.scenarios import OTHER, SHARING, SMALL, TWO_PIECES, damage, is_whole

from prestage.cacher.digests import hex_of
from prestage.cacher.errors import Bug, Busy, Corrupt, NotFound
from prestage.cacher.manifest import FileEntry, manifest_of
from prestage.cacher.store.store import Store
from prestage.cacher.store.verify import OFFSETS_SHOWN, Damage, VerifyReport


@pytest.fixture
def store(fast_path: Path) -> Iterator[Store]:
    with Store.open(fast_path / "store", own=True) as store:
        yield store


def blob_path(store: Store, data: bytes) -> Path:
    name = hex_of(blob_of(data))
    return store.root / "blobs" / name[:2] / name


def test_a_view_is_a_read_only_tree_beside_what_a_loader_needs(store: Store) -> None:
    stage(store, SMALL)
    tree = store.path(SMALL.artifact)
    assert tree == store.root / "views" / hex_of(SMALL.artifact) / "current"
    assert {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} == SMALL.contents.keys()
    assert tree.stat().st_mode & 0o777 == 0o555
    side = tree.parent / ".prestage" / tree.name
    sums = json.loads((side / "sums").read_bytes())
    assert (sums["format"], sums["algorithm"], sums["chunk_bytes"]) == (1, "xxh3-128", 4 << 20)
    assert sums["files"]["empty"] == {"size": 0, "chunks": ""}
    assert (side / "manifest.json").read_bytes() == SMALL.manifest.to_bytes()


def test_a_view_needs_every_file(store: Store) -> None:
    artifact = store.put_manifest(SMALL.manifest)
    with pytest.raises(Busy, match=r"config\.json"):
        store.publish_view(artifact)
    assert store.state(artifact) == "partial"
    with pytest.raises(NotFound, match="not whole yet"):
        store.path(artifact)
    with pytest.raises(NotFound):
        store.state(OTHER.artifact)


def test_a_thousand_deep_and_long_names_are_served(store: Store) -> None:
    paths = [f"{'d' * 100}/" * 8 + f"f{number}" for number in range(3)] + ["ü/" + "n" * 255]
    model = Model({path: path.encode() for path in paths})
    stage(store, model)
    assert is_whole(store, model)
    assert store.verify().bad == []


def test_of_a_file_that_is_damaged_all_over_the_first_offsets_are_said() -> None:
    one, other = (Damage(blob_of(b""), (), (), "why", tuple(range(count))) for count in (3, OFFSETS_SHOWN + 7))
    said = VerifyReport(bad=[one, other]).to_json()["bad"]
    assert isinstance(said, list)
    assert [(bad["chunk_offsets"], bad["chunk_offsets_left_out"]) for bad in said] == [
        ([0, 1, 2], 0),
        (list(range(OFFSETS_SHOWN)), 7),
    ]


def test_damage_is_found_named_and_mended_by_fetching_that_file_alone(store: Store) -> None:
    stage(store, TWO_PIECES)
    stage(store, SMALL)
    path = blob_path(store, TWO_PIECES.contents["big.bin"])
    path.chmod(0o600)
    with path.open("r+b") as file:
        for at in (5 << 20, (16 << 20) + 2):
            file.seek(at)
            file.write(b"\xff\xff")
    seen: list[tuple[int, int]] = []
    report = store.verify(on_progress=lambda done, total: seen.append((done, total)))
    total = TWO_PIECES.size_bytes + SMALL.size_bytes
    assert (report.files, report.bytes, report.quarantined) == (4, total, True)
    assert seen[-1] == (total, total)
    (bad,) = report.bad
    assert bad.blob == blob_of(TWO_PIECES.contents["big.bin"])
    assert (bad.artifacts, bad.paths) == ((TWO_PIECES.artifact,), ("big.bin",))
    assert bad.chunk_offsets == (4 << 20, 16 << 20)
    assert json.loads(json.dumps(report.to_json()))["bad"][0]["chunk_offsets"] == [4 << 20, 16 << 20]
    with pytest.raises(Corrupt, match="stage it again"):
        store.path(TWO_PIECES.artifact)
    assert len(list((store.root / "quarantine").iterdir())) == 1
    assert store.verify().bad[0].why == "it is missing", "and stays bad until it is mended"
    steps = Steps()
    stage(store, TWO_PIECES, steps)
    assert steps.fetched == ["big.bin"]
    assert is_whole(store, TWO_PIECES)
    assert store.verify().bad == []


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b"", lambda raw: raw[::-1]])
def test_a_file_of_another_length_is_damaged(store: Store, change: Callable[[bytes], bytes]) -> None:
    stage(store, OTHER)
    path = blob_path(store, OTHER.contents["other.bin"])
    raw = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(change(raw))
    assert len(store.verify(OTHER.artifact).bad) == 1
    stage(store, OTHER)
    assert is_whole(store, OTHER)


def test_a_reader_reports_damage_and_changes_nothing(store: Store) -> None:
    stage(store, SMALL)
    damage(store, SMALL, "config.json")
    with Store.open(store.root, own=False) as reader:
        report = reader.verify(SMALL.artifact)
    assert len(report.bad) == 1
    assert not report.quarantined
    assert blob_path(store, SMALL.contents["config.json"]).exists()


def test_verifying_an_artifact_looks_at_its_files_only(store: Store) -> None:
    stage(store, SMALL)
    stage(store, OTHER)
    damage(store, OTHER, "other.bin")
    assert store.verify(SMALL.artifact).bad == []
    assert [bad.paths for bad in store.verify().bad] == [("other.bin",)]
    with pytest.raises(NotFound):
        store.verify(SHARING.artifact)


@pytest.mark.parametrize("raw", [None, b"", b"{}", b'{"format": 1}', b"[" * 50_000])
def test_a_lost_or_damaged_meta_is_written_again_from_the_bytes(store: Store, raw: bytes | None) -> None:
    stage(store, SMALL)
    meta = blob_path(store, SMALL.contents["config.json"]).with_suffix(".meta")
    meta.unlink()
    if raw is not None:
        meta.write_bytes(raw)
    report = store.verify()
    assert report.bad == []
    assert json.loads(meta.read_bytes())["size"] == len(SMALL.contents["config.json"])
    assert is_whole(store, SMALL)


def test_a_blob_whose_meta_was_lost_is_replaced_by_the_next_stage(store: Store) -> None:
    stage(store, SMALL)
    path = blob_path(store, SMALL.contents["config.json"])
    path.with_suffix(".meta").unlink()
    steps = Steps()
    stage(store, SMALL, steps)
    assert steps.fetched == ["config.json"]
    assert is_whole(store, SMALL)
    assert store.verify().bad == []


def test_a_file_of_a_view_that_was_replaced_behind_our_back_is_found_and_healed(store: Store) -> None:
    stage(store, SMALL)
    tree = store.path(SMALL.artifact)
    tree.chmod(0o755)
    (tree / "config.json").unlink()
    (tree / "config.json").write_bytes(b'{"a": 666}')
    (bad,) = store.verify(SMALL.artifact).bad
    assert bad.why == "the view's file is not the blob"
    assert store.state(SMALL.artifact) == "damaged"
    steps = Steps()
    stage(store, SMALL, steps)
    assert steps.fetched == []
    assert is_whole(store, SMALL)


@pytest.mark.parametrize("name", ["sums", "manifest.json"])
@pytest.mark.parametrize("raw", [None, b"{}"])
def test_what_the_loader_verifies_against_is_verified_too(store: Store, name: str, raw: bytes | None) -> None:
    stage(store, SMALL)
    side = store.path(SMALL.artifact).parent / ".prestage" / "current"
    right = (side / name).read_bytes()
    side.chmod(0o755)
    (side / name).unlink()
    if raw is not None:
        (side / name).write_bytes(raw)
    (bad,) = store.verify(SMALL.artifact).bad
    assert bad.why == f"the view's {name} is damaged"
    stage(store, SMALL)
    assert (side / name).read_bytes() == right
    assert store.verify(SMALL.artifact).bad == []


@pytest.mark.parametrize("suffix", [".binding", ".json"])
@pytest.mark.parametrize("raw", [None, b"", b"{}", b'{"files": 3}'])
def test_a_damaged_binding_or_manifest_is_mended_by_staging_again(store: Store, suffix: str, raw: bytes | None) -> None:
    stage(store, SMALL)
    stage(store, SHARING)
    path = store.root / "manifests" / f"{hex_of(SMALL.artifact)}{suffix}"
    path.unlink()
    if raw is not None:
        path.write_bytes(raw)
    states = {row.artifact: row.state for row in store.list()}
    assert states.get(SMALL.artifact, "damaged") == "damaged"
    steps = Steps()
    stage(store, SMALL, steps)
    assert steps.fetched == [], "the bytes are here"
    assert is_whole(store, SMALL)


def test_a_damaged_binding_does_not_let_others_evict_its_blobs(store: Store) -> None:
    stage(store, SMALL)
    stage(store, SHARING)
    binding = store.root / "manifests" / f"{hex_of(SHARING.artifact)}.binding"
    binding.unlink()
    binding.write_bytes(b"garbage")
    store.evict(SMALL.artifact)
    steps = Steps()
    stage(store, SHARING, steps)
    assert steps.fetched == []
    assert is_whole(store, SHARING)


def test_an_ingest_that_lacks_pieces_is_not_published(store: Store) -> None:
    store.put_manifest(OTHER.manifest)
    ingest = store.ingest(OTHER.manifest, OTHER.manifest.files[0])
    with pytest.raises(Bug, match="0 of 1 pieces"):
        ingest.finish()
    ingest.discard()
    ingest.close()
    assert list((store.root / "ingest").iterdir()) == []


def test_bytes_that_came_wrong_are_kept_for_a_look_with_the_reason(store: Store) -> None:
    store.put_manifest(OTHER.manifest)
    ingest = store.ingest(OTHER.manifest, OTHER.manifest.files[0])
    kept = ingest.quarantine("the origin states sha256:aa, its bytes are sha256:bb")
    assert kept.parent == store.root / "quarantine"
    assert "sha256:bb" in kept.with_name(f"{kept.name}.why").read_text()
    assert list((store.root / "ingest").iterdir()) == []
    with Store.open(store.root, own=False) as reader:
        assert reader.used_bytes() > 0


def test_a_buffer_read_back_is_what_was_written(store: Store) -> None:
    from stores.making import fill, ingesting

    from prestage.cacher.transfer.buffers import aligned_buffer

    store.put_manifest(TWO_PIECES.manifest)
    data = TWO_PIECES.contents["big.bin"]
    with ingesting(store, TWO_PIECES, "big.bin") as ingest:
        fill(ingest, data)
        buffer = aligned_buffer(4 << 20)
        got = b""
        while count := ingest.read(buffer, len(got)):
            got += buffer[:count]
        assert got == data


def test_a_digest_of_the_content_is_remembered_only_as_it_was_checked(store: Store) -> None:
    data = content(5000, "checked")
    manifest = manifest_of("http:host", "", [FileEntry("f", len(data), etag='"1"')])
    model = Model({"f": data}, "https://host/f", "http:host", states_sha256=False)
    assert manifest.files[0].digest is None
    stage(store, model)
    meta = json.loads(blob_path(store, data).with_suffix(".meta").read_bytes())
    assert meta["digests"] == [sha256(data)]
    assert meta["authorities"] == ["http:host"]


def test_a_view_without_its_manifest_can_be_evicted(store: Store) -> None:
    stage(store, SMALL)
    (store.root / "manifests" / f"{hex_of(SMALL.artifact)}.json").unlink()
    store.evict(SMALL.artifact)
    assert list((store.root / "views").iterdir()) == []
