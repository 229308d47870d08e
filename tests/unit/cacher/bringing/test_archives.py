"""An artifact as one file: what goes out comes in, and nothing else does."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bringing import archive_of, descriptor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from stores.making import Model, blob_of, content, fetch, records_of, sha256, stage
from stores.oracle import check_invariants

from prestage.cacher.archives import exporting, layout
from prestage.cacher.archives.exporting import export
from prestage.cacher.archives.importing import import_archive
from prestage.cacher.digests import PIECE_BYTES, ArtifactId, Digest
from prestage.cacher.errors import Corrupt, Full, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import Manifest, manifest_of
from prestage.cacher.store.blobs import BlobMeta
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.buffers import aligned_buffer

MODEL = Model(
    {
        "config.json": b'{"a": 1}',
        "empty": b"",
        "sub/copy.json": b'{"a": 1}',
        "sub/model.safetensors": content((16 << 20) + 5000, "archive"),
    }
)
LITTLE = Model({"a": b"some bytes", "b": b"others"})
WEAK = Model({"a": b"known by an etag"}, "s3://bucket/pre/a", "s3:https://s3.test/bucket", states_sha256=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", own=True) as opened:
        yield opened


@pytest.fixture
def archive(store: Store, tmp_path: Path) -> Path:
    stage(store, MODEL)
    export(store, MODEL.artifact, tmp_path / "out.tar", ref=MODEL.name)
    return tmp_path / "out.tar"


def test_a_blob_that_is_taken_out_of_use_meanwhile_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(store, MODEL)
    damaged, read = store.binding(MODEL.artifact)["sub/model.safetensors"], exporting.read_blob

    def quarantined(path: Path, meta: BlobMeta) -> Iterator[memoryview]:
        if path == store.blob_path(damaged):
            store._parts.blobs.quarantine(damaged)
        return read(path, meta)

    monkeypatch.setattr(exporting, "read_blob", quarantined)
    path = store.blob_path(damaged)
    with (tmp_path / "out.tar").open("wb") as out, pytest.raises(Corrupt, match=f"{path} has been taken out of use"):
        export(store, MODEL.artifact, out.fileno())


def take_in(root: Path, raw: bytes) -> str:
    with Store.open(root, own=True) as store, descriptor_of(raw) as fd:
        return import_archive(store, fd)[0].artifact


def test_what_was_exported_is_imported_with_its_ref(archive: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other", own=True) as other:
        staged, ref = import_archive(other, archive)
        assert (staged.artifact, ref) == (MODEL.artifact, MODEL.name)
        assert other.lookup(MODEL.name) == MODEL.artifact
        assert {path: (staged.path / path).read_bytes() for path in MODEL.contents} == MODEL.contents
        assert other.verify().bad == []
        check_invariants(tmp_path / "other", {MODEL.artifact: MODEL.contents})


def test_the_same_artifact_gives_the_same_file_and_a_plain_tar_reads_it(archive: Path, tmp_path: Path) -> None:
    assert archive.read_bytes() == archive_of(MODEL.contents, MODEL.manifest, MODEL.name)
    listed = subprocess.run(["tar", "-tf", str(archive)], check=True, capture_output=True, text=True).stdout.splitlines()
    assert listed[:3] == ["prestage/archive.json", "prestage/manifest.json", "prestage/binding.json"]
    with tarfile.open(archive) as tar:
        binding = json.load(tar.extractfile("prestage/binding.json") or pytest.fail("no binding"))
        for path, blob in binding["files"].items():
            member = tar.extractfile(f"prestage/{blob.partition(':')[2]}")
            assert member is not None
            assert member.read() == MODEL.contents[path]


def test_an_export_into_a_disk_without_room_is_one_line_and_exit_code_7(store: Store) -> None:
    stage(store, LITTLE)
    command = [sys.executable, "-m", "prestage.cacher.cli", "export", "--root", str(store.root), LITTLE.artifact, "-"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 7
    assert done.stderr.splitlines()[0] == "prestage: no space left on the disk for stdout"
    assert "Traceback" not in done.stderr


def test_a_later_stage_of_the_ref_finds_what_was_proved_by_its_sha256(tmp_path: Path) -> None:
    newer = replace(MODEL, version="2")
    with Store.open(tmp_path / "other", own=True) as other, descriptor_of(archive_of(MODEL.contents, MODEL.manifest)) as fd:
        import_archive(other, fd)
        other.put_manifest(newer.manifest)
        assert all(other.reusable(newer.manifest, file) for file in newer.manifest.files)


def test_what_no_digest_proves_stands_for_its_own_artifact_only(tmp_path: Path) -> None:
    with (
        Store.open(tmp_path / "other", own=True) as other,
        descriptor_of(archive_of(WEAK.contents, WEAK.manifest, WEAK.name)) as fd,
    ):
        staged, _ = import_archive(other, fd)
        assert (staged.path / "a").read_bytes() == WEAK.contents["a"]
        assert other.reusable(WEAK.manifest, WEAK.manifest.files[0]) is None


def test_through_a_pipe_it_is_the_same(store: Store, tmp_path: Path) -> None:
    stage(store, MODEL)
    reader, writer = os.pipe()

    def send() -> None:
        export(store, MODEL.artifact, writer, ref=MODEL.name)
        os.close(writer)

    thread = threading.Thread(target=send)
    thread.start()
    with Store.open(tmp_path / "other", own=True) as other:
        staged, _ = import_archive(other, reader)
    thread.join()
    os.close(reader)
    assert staged.bytes_by_source == {"archive": MODEL.size_bytes - len(MODEL.contents["sub/copy.json"])}


def test_a_reader_that_goes_away_ends_an_export(store: Store) -> None:
    stage(store, MODEL)
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(Unavailable, match="nobody reads"):
        export(store, MODEL.artifact, writer)
    os.close(writer)
    assert store.list()[0].holds == []


def test_an_existing_file_is_not_overwritten_unless_forced(store: Store, archive: Path) -> None:
    before = archive.read_bytes()
    archive.write_bytes(b"precious")
    with pytest.raises(Misconfigured, match="exists"):
        export(store, MODEL.artifact, archive, ref=MODEL.name)
    assert archive.read_bytes() == b"precious"
    export(store, MODEL.artifact, archive, ref=MODEL.name, force=True)
    assert archive.read_bytes() == before
    assert [path.name for path in archive.parent.iterdir() if path.name.endswith(".new")] == []


def test_what_is_damaged_here_is_not_exported(store: Store, tmp_path: Path) -> None:
    stage(store, MODEL)
    blob = store.blob_path(store.binding(MODEL.artifact)["sub/model.safetensors"])
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(9_000_000)
        file.write(b"\0\1\2")
    with pytest.raises(Corrupt, match="8388608"):
        export(store, MODEL.artifact, tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()
    assert not (tmp_path / ".out.tar.new").exists()


def test_what_is_not_staged_is_not_exported(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        export(store, MODEL.artifact, tmp_path / "out.tar")


def test_an_archive_that_does_not_fit_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    with Store.open(tmp_path / "small", own=True, budget_bytes=10 << 20) as small:
        with descriptor_of(archive_of(MODEL.contents, MODEL.manifest)) as fd, pytest.raises(Full):
            import_archive(small, fd)
        assert small.list() == []
        assert list((tmp_path / "small" / "ingest").iterdir()) == []


def test_a_cut_at_any_place_is_refused_with_the_place(tmp_path: Path) -> None:
    raw = archive_of(LITTLE.contents, LITTLE.manifest)
    for end in [*range(0, len(raw), 400), len(raw) - 1]:
        with pytest.raises(Corrupt, match="damaged at byte"):
            take_in(tmp_path / str(end), raw[:end])
        nothing_is_usable(tmp_path / str(end))
    assert take_in(tmp_path / "other", raw) == LITTLE.artifact


def nothing_is_usable(root: Path) -> None:
    with Store.open(root, own=True) as store:
        assert [row for row in store.list() if row.state == "staged"] == []
        check_invariants(root, {LITTLE.artifact: LITTLE.contents})


def test_a_flip_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    raw = archive_of(LITTLE.contents, LITTLE.manifest)
    chance = random.Random(3)
    refused = 0
    for at in chance.sample(range(len(raw)), 100):
        changed = bytearray(raw)
        changed[at] ^= 1 << chance.randrange(8)
        with Store.open(tmp_path / str(at), own=True) as store, descriptor_of(bytes(changed)) as fd:
            try:
                staged, _ = import_archive(store, fd)
            except PrestageError:
                refused += 1
                assert [row for row in store.list() if row.state == "staged"] == []
                continue
            assert {path: (staged.path / path).read_bytes() for path in LITTLE.contents} == LITTLE.contents
    assert refused > 50


@settings(max_examples=50)
@given(st.binary(max_size=3000))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    root = tmp_path_factory.getbasetemp() / "any-bytes"
    with Store.open(root, own=True) as store, descriptor_of(raw) as fd, pytest.raises(Corrupt):
        import_archive(store, fd)


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_is_a_label_or_a_binding_or_damage(document: object) -> None:
    raw = json.dumps(document).encode()
    for parse in (lambda: layout.parse_label(raw, 0), lambda: layout.parse_binding(raw, LITTLE.manifest, 0)):
        with pytest.raises(PrestageError):
            parse()


def hostile() -> dict[str, bytes]:
    """Archives whose every digest fits, but for one lie each."""
    contents, manifest = LITTLE.contents, LITTLE.manifest
    swapped = {"a": contents["b"], "b": contents["a"]}
    other = layout.Label(manifest.artifact, "hf://somebody/else@main").to_bytes()
    outside = json.dumps(json.loads(manifest.to_bytes()) | {"files": [{"path": "../../etc/passwd", "size": 1}]}).encode()
    long = archive_of(contents, manifest)
    link = tarfile.TarInfo("prestage/archive.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return {
        "another blob for a path": archive_of(swapped, manifest),
        "a ref of somebody else": archive_of(contents, manifest, label=other),
        "a path that leads out": archive_of(
            contents, manifest, listing=outside, label=layout.Label(_artifact(outside), "").to_bytes()
        ),
        "a manifest of another artifact": archive_of(contents, manifest, listing=MODEL.manifest.to_bytes()),
        "a binding that lacks a file": archive_of(contents, manifest, binding=layout.render_binding(manifest.artifact, {})),
        "something behind the end": long + b"x",
        "a symlink": link.tobuf() + long[512:],
        "an endless manifest": layout.header("archive.json", 1 << 40) + long[512:],
        "no checksum": archive_of(contents, _with_checksum(manifest, "crc64nvme:0000000000000000")),
        "an unknown digest": archive_of(contents, _with_checksum(manifest, "md9:00")),
    }


def _artifact(raw: bytes) -> ArtifactId:
    return ArtifactId(sha256(raw))


def _with_checksum(manifest: Manifest, checksum: str) -> Manifest:
    files = [replace(file, checksum=Digest(checksum)) for file in manifest.files]
    return manifest_of(manifest.authority, manifest.base, files, revision=manifest.revision)


@pytest.mark.parametrize("lie", hostile())
def test_an_archive_that_lies_is_refused_and_publishes_nothing_usable(lie: str, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other", own=True) as store, descriptor_of(hostile()[lie]) as fd:
        with pytest.raises(PrestageError) as caught:
            import_archive(store, fd)
        assert caught.value.kind in ("corrupt", "misconfigured")
        assert [row for row in store.list() if row.state == "staged"] == []
        assert list((store.root / "ingest").iterdir()) == []
    assert not (tmp_path / "passwd").exists()


def test_a_header_of_eight_gigabytes_and_more_is_read_back() -> None:
    size = 9 << 30
    raw = layout.header("x" * 64, size)
    name, count, is_pax = layout.member(raw[:512], 0)
    assert is_pax
    assert layout.pax_size(raw[512 : 512 + count], 0) == size
    name, _, is_pax = layout.member(raw[1024:1536], 0)
    assert (name, is_pax, len(raw)) == ("x" * 64, False, 1536)


def test_what_was_journaled_before_a_cut_is_not_written_again(tmp_path: Path) -> None:
    path = "sub/model.safetensors"
    data = MODEL.contents[path]
    with Store.open(tmp_path / "other", own=True) as store:
        store.put_manifest(MODEL.manifest)
        large = next(file for file in MODEL.manifest.files if file.path == path)
        ingest = store.ingest(MODEL.manifest, large, archive=blob_of(data))
        buffer = aligned_buffer(PIECE_BYTES)
        buffer[:] = data[:PIECE_BYTES]
        ingest.write(buffer, 0)
        ingest.journal(records_of(data)[:1])
        ingest.close()
        with descriptor_of(archive_of(MODEL.contents, MODEL.manifest)) as fd:
            staged, _ = import_archive(store, fd)
        assert staged.bytes_by_source["journal"] == PIECE_BYTES
        assert (staged.path / path).read_bytes() == data
        assert store.verify().bad == []


def test_an_origin_does_not_go_on_with_what_an_archive_said(tmp_path: Path) -> None:
    """A hostile archive that is cut off leaves nothing that a fetch of the same file would take for its own."""
    wrong = Model({"a": content(17 << 20, "wrong")}, WEAK.name, WEAK.authority, states_sha256=False)
    right = Model({"a": content(17 << 20, "right")}, WEAK.name, WEAK.authority, states_sha256=False)
    assert wrong.artifact == right.artifact
    raw = archive_of(wrong.contents, wrong.manifest)
    with Store.open(tmp_path / "other", own=True) as store:
        with descriptor_of(raw[: len(raw) - 2048]) as fd, pytest.raises(Corrupt):
            import_archive(store, fd)
        fetch(store, right, "a")
        assert store.publish_view(right.artifact).joinpath("a").read_bytes() == right.contents["a"]
