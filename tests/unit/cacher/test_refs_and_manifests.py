"""Refs, manifests and digests: what is read, what is refused, what never depends on the node."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import blake3
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher import digests
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Corrupt, Misconfigured, PrestageError
from prestage.cacher.manifest import FileEntry, Manifest, check_path, manifest_of, parse_manifest
from prestage.cacher.refs import ArtifactRef, HfRef, HttpRef, S3Ref, parse_ref, parse_wanted, text_of

PIN = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://org/name", "hf://org/name@main"),
        ("hf://org/name@refs/pr/3", "hf://org/name@refs/pr/3"),
        ("s3://bucket/", "s3://bucket/"),
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/a@b,c/", "s3://bucket/a@b,c/"),
        ("s3://bucket/key?versionId=v%2F1", "s3://bucket/key?versionId=v%2F1"),
        ("https://host:443/a/b.bin", "https://host/a/b.bin"),
        ("https://host:8443/a%20b", "https://host:8443/a%20b"),
        ("http://[::1]:8000/f", "http://[::1]:8000/f"),
        ("https://host/f?X-Amz-Signature=secret", "https://host/f"),
        ("file:///models/a/", "file:///models/a"),
        ("file:///a%20b", "file:///a%20b"),
    ],
)
def test_a_ref_has_one_name(text: str, name: str) -> None:
    assert parse_ref(text).name == name
    assert parse_ref(f"{text}@{PIN}").pin == PIN if "?" not in text and "#" not in text else True


def test_a_url_keeps_its_query_for_sending_only() -> None:
    ref = parse_ref("https://host/f?token=secret#sha256=" + "0a" * 32)
    assert isinstance(ref, HttpRef)
    assert ref.url == "https://host/f?token=secret"
    assert "secret" not in ref.name
    assert ref.sha256 == "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a ref"),
        ("model", "no scheme"),
        ("ftp://host/f", "unknown scheme"),
        ("oci://reg/repo:tag", "not supported by this version"),
        ("hf://onlyname", "hf://org/name"),
        ("hf://org/name@", "hf://org/name"),
        ("hf://org/../x", "hf://org/name"),
        ("s3://", "no bucket"),
        ("s3://bkt/prefix/?versionId=1", "single object"),
        ("https://host/", "names no file"),
        ("https://user:secret@host/f", "netrc"),
        ("https://host:99999/f", "not a URL"),
        ("https://host/f#md5=1", "#sha256="),
        ("file://relative", "absolute"),
        ("file:///a/../b", "absolute"),
        ("a b", "not a ref"),
        ("x" * 9000, "not a ref"),
    ],
)
def test_a_wrong_ref_is_told_on_one_line_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_ref(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


SCHEMES = st.sampled_from(["hf://", "s3://", "https://", "file://"])


@given(st.text(max_size=60) | SCHEMES.flatmap(lambda scheme: st.text(max_size=40).map(scheme.__add__)))
def test_no_text_breaks_the_parser_and_names_are_stable(text: str) -> None:
    try:
        ref = parse_ref(text)
    except PrestageError:
        return
    assert parse_ref(ref.name).name == ref.name


def test_a_pin_is_only_the_exact_form() -> None:
    assert parse_ref(f"s3://bkt/k@{PIN}") == S3Ref("bkt", "k", pin=digests.artifact_id(PIN))
    assert parse_ref("s3://bkt/k@sha256:12") == S3Ref("bkt", "k@sha256:12")
    assert parse_ref(f"hf://a/b@v1@{PIN}") == HfRef("a/b", "v1", digests.artifact_id(PIN))


SAFE = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20
).filter(lambda part: part not in (".", "..", ".prestage", ".hf"))
FILES = st.lists(
    st.builds(
        FileEntry,
        SAFE,
        st.integers(0, 2**53 - 1),
        etag=st.none() | st.text(min_size=1, max_size=9),
        version=st.none() | st.text(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda file: file.path.casefold(),
)


@given(FILES, st.randoms())
def test_a_manifest_survives_its_own_bytes_and_does_not_depend_on_order(files: list[FileEntry], rng: object) -> None:
    manifest = manifest_of("hf:https://hub/org/name", "", files, revision="abc")
    assert parse_manifest(manifest.to_bytes(), manifest.artifact) == manifest
    assert manifest_of("hf:https://hub/org/name", "", files[::-1], revision="abc").artifact == manifest.artifact


def test_the_artifact_is_the_sha256_of_canonical_json_and_never_changes_by_release() -> None:
    manifest = manifest_of("s3:https://e/b", "p/", [FileEntry("b", 2, etag='"x"'), FileEntry("a", 1)])
    assert manifest.to_bytes() == (
        b'{"authority":"s3:https://e/b","base":"p/","files":[{"path":"a","size":1},'
        b'{"etag":"\\"x\\"","path":"b","size":2}],"format":1,"kind":"model","revision":null}'
    )
    assert manifest.artifact == f"sha256:{hashlib.sha256(manifest.to_bytes()).hexdigest()}"
    assert manifest.is_weak


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "../a",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\0b",
        "a\nb",
        "a\\b",
        "x" * 256,
        "d/" * 600 + "f",
        "\udcff",
        ".prestage/x",
        ".hf",
    ],
)
def test_an_unsafe_file_name_is_refused_and_named(path: str) -> None:
    with pytest.raises(Misconfigured, match="file name"):
        check_path(path)


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["A", "a"], "collide"),
        (["a", "a"], "collide"),
        (["a", "a/b"], "as a folder"),
        (["D/x", "d"], "as a folder"),
        ([], "no file is left"),
    ],
)
def test_file_names_that_cannot_live_together_are_refused(paths: list[str], says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        manifest_of("x", "", [FileEntry(path, 1) for path in paths])


FIELDS = st.sampled_from(["format", "files", "path", "size", "authority", "base", "revision", "kind"])
LEAVES = st.none() | st.integers() | st.text(max_size=5)
DOCUMENTS = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner), max_leaves=9)


@given(st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_garbage_is_no_manifest_and_no_traceback(raw: bytes) -> None:
    with pytest.raises((Corrupt, Misconfigured)):
        parse_manifest(raw)


def test_other_bytes_than_the_name_says_are_refused() -> None:
    manifest = Manifest("a", "", (FileEntry("f", 1),))
    with pytest.raises(Corrupt, match="other bytes"):
        parse_manifest(manifest.to_bytes() + b" ", manifest.artifact)


def test_a_tree_digest_is_what_the_format_page_says() -> None:
    pieces = [blake3.blake3(b"x" * digests.PIECE_BYTES).digest(), blake3.blake3(b"y").digest()]
    size = digests.PIECE_BYTES + 1
    tree = blake3.blake3(size.to_bytes(8, "little") + b"".join(pieces), derive_key_context="prestage blob v1").hexdigest()
    assert digests.tree_digest(size, pieces) == f"blake3-tree:{tree}"
    assert digests.chunk_sum(b"abc").hex() == xxhash.xxh3_128_hexdigest(b"abc")


@given(st.integers(0, 1 << 40))
def test_pieces_and_chunks_cover_a_file_exactly(size: int) -> None:
    count = digests.piece_count(size)
    assert count == 0 or digests.piece_span(size, count - 1)[1] == size
    assert digests.chunk_count(size) == -(-size // digests.CHUNK_BYTES)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 64, "a" * 64])
def test_what_is_not_an_artifact_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="64 lower-case hex digits"):
        digests.artifact_id(text)


def test_a_changed_copy_of_a_manifest_has_a_name_of_its_own() -> None:
    manifest = manifest_of("test:", "", [FileEntry("a", 1)])
    before = manifest.artifact
    changed = dataclasses.replace(manifest, revision="r")
    assert changed.artifact != before
    assert changed == dataclasses.replace(changed)
    assert manifest.artifact == before


def test_an_artifact_is_no_ref_but_may_be_wanted() -> None:
    name = "sha256:" + "a" * 64
    assert parse_wanted(name) == ArtifactRef(ArtifactId(name))
    assert text_of(parse_wanted(name)) == name
    assert parse_wanted("hf://org/name") == parse_ref("hf://org/name")
    for text in (name, "sha256:short"):
        with pytest.raises(Misconfigured):
            parse_ref(text)
    with pytest.raises(Misconfigured):
        parse_wanted("sha256:short")
