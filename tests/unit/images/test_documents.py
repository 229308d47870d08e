"""Index, manifest, config: what they say, and that damage and malice in them are errors of ours, never crashes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import Tar, image, index, mixed, sha256, simple

from prestage.cacher.errors import Corrupt, Misconfigured, NotFound, PrestageError
from prestage.images.chains import chain_ids
from prestage.images.descriptors import Platform, choose, is_index, parse_config, parse_image_manifest
from prestage.images.image import Image, assemble
from prestage.images.names import OciDigest, parse_oci

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")
NAME = parse_oci("oci://reg.example/app:1")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


def assembled() -> Image:
    made = mixed()
    manifest = parse_image_manifest(made.top)
    return assemble(NAME, "oci:https://reg.example/app", (OciDigest(made.digest),), manifest, made.blobs[manifest.config.digest])


def test_chain_ids_are_those_of_the_image_specification() -> None:
    a, b, c = (OciDigest(sha256(letter)) for letter in (b"a", b"b", b"c"))
    ab = sha256(f"{a} {b}".encode())
    assert [*map(str, chain_ids([a, b, c]))] == [a, ab, sha256(f"{ab} {c}".encode())]
    assert chain_ids([]) == ()


def test_an_index_gives_the_manifest_of_the_platform() -> None:
    images = {"arm64": simple(seed=1), "amd64": simple(seed=2)}
    made = index(images)
    assert is_index("", made.top)
    assert choose(made.top, AMD64).digest == images["amd64"].digest
    assert choose(made.top, ARM64).digest == images["arm64"].digest
    with pytest.raises(NotFound, match="no linux/s390x, only linux/arm64/v8, linux/amd64"):
        choose(made.top, Platform("linux", "s390x"))


def test_what_a_document_says_of_itself_wins_over_the_header() -> None:
    assert not is_index("application/vnd.oci.image.index.v1+json", simple().top)
    assert is_index("application/json", json.dumps({"manifests": []}).encode())


def test_layers_stand_on_each_other_and_a_blob_that_stands_twice_is_one() -> None:
    found = assembled()
    assert len(found.layers) == 12
    assert [layer.parent for layer in found.layers] == [None, *[layer.chain for layer in found.layers[:-1]]]
    assert len({layer.chain for layer in found.layers}) == 12, "the same empty layer on another parent is another chain"
    assert len(found.blobs) == 12, "gzip and uncompressed are two blobs"
    twice = image([(Tar().file("a").end(), "gzip"), (Tar().end(), "gzip"), (Tar().end(), "gzip")])
    manifest = parse_image_manifest(twice.top)
    doubled = assemble(NAME, "oci:x", (OciDigest(twice.digest),), manifest, twice.blobs[manifest.config.digest])
    assert (len(doubled.layers), len(doubled.blobs)) == (3, 2)


def test_the_artifact_of_an_image_names_no_digest_of_the_registry() -> None:
    found = assembled()
    private: set[str] = {
        found.config.digest,
        *found.roots,
        *(layer.blob.digest for layer in found.layers),
        *(layer.diff_id for layer in found.layers),
    }
    assert found.artifact not in private
    assert found.artifact == assembled().artifact


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"schemaVersion": 1}, Misconfigured),
        ({"layers": []}, Misconfigured),
        ({"layers": "x"}, Corrupt),
        ({"layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:x", "size": 1}]}, Corrupt),
        (
            {
                "layers": [
                    {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": sha256(b""), "size": 1}
                ]
            },
            Misconfigured,
        ),
        (
            {
                "layers": [
                    {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "digest": sha256(b""), "size": 1}
                ]
            },
            Misconfigured,
        ),
        ({"layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(b""), "size": -1}]}, Corrupt),
        ({"layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(b""), "size": True}]}, Corrupt),
        (
            {"layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(b""), "size": 1}] * 128},
            Misconfigured,
        ),
        ({"config": None}, Corrupt),
        ({"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": sha256(b""), "size": 1}}, Misconfigured),
    ],
)
def test_a_manifest_that_cannot_be_staged_is_refused(change: dict[str, object], error: type[PrestageError]) -> None:
    with pytest.raises(error):
        parse_image_manifest(json.dumps({**json.loads(simple().top), **change}).encode())


def test_a_config_of_another_image_is_refused() -> None:
    three, two = simple(layers=3), simple(layers=2)
    config = two.blobs[parse_image_manifest(two.top).config.digest]
    with pytest.raises(Corrupt, match="2 diff IDs for 3 layers"):
        parse_config(config, parse_image_manifest(three.top))


@given(st.one_of(st.binary(max_size=200), JSON.map(lambda doc: json.dumps(doc).encode())))
def test_any_bytes_are_a_document_or_an_error_of_ours(raw: bytes) -> None:
    manifest = parse_image_manifest(simple(layers=1, size_bytes=10).top)
    for read in (
        parse_image_manifest,
        lambda raw: choose(raw, AMD64),
        lambda raw: parse_config(raw, manifest),
        lambda raw: is_index("", raw),
    ):
        try:
            read(raw)
        except PrestageError:
            continue


@given(
    st.dictionaries(st.sampled_from(["mediaType", "config", "layers", "manifests", "schemaVersion"]), JSON),
    st.dictionaries(st.sampled_from(["mediaType", "digest", "size", "platform"]), JSON),
)
def test_documents_of_the_right_shape_with_wrong_values_are_errors_of_ours(
    doc: dict[str, object], row: dict[str, object]
) -> None:
    for full in ({**doc, "manifests": [row]}, {**doc, "layers": [row], "config": row}):
        for read in (parse_image_manifest, lambda raw: choose(raw, AMD64)):
            try:
                read(json.dumps(full).encode())
            except PrestageError:
                continue
