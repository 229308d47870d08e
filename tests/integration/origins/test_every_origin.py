"""The conformance suite: what holds for every origin, run against a real server of each kind."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import pytest
from offers import MODEL, WEIGHTS, Offer, reader

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.errors import Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import FileEntry, parse_manifest
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins.ports import Selection
from prestage.cacher.transfer import checksums
from prestage.cacher.transfer.ports import Changed, PieceRecord

KINDS = ("file", "http", "https", "s3", "s3_virtual", "hub")
MANY = ("file", "s3", "s3_virtual", "hub")
"""Those that list files."""
OVERWRITTEN = ("file", "http", "https", "s3", "s3_virtual")
"""Those where a new version takes the place of the old one; a hub's commits stay what they are."""


@pytest.fixture(scope="module", autouse=True)
def servers_that_are_here(request: pytest.FixtureRequest) -> None:
    """Started before the first test looks at what it leaves behind; one that this machine lacks skips its own tests only."""
    for name in ("nginx", "versitygw"):
        with contextlib.suppress(pytest.skip.Exception):
            request.getfixturevalue(name)


@pytest.fixture(params=KINDS)
def offer(request: pytest.FixtureRequest) -> Offer:
    made: Offer = request.getfixturevalue(f"{request.param}_offer")
    return made


@pytest.fixture(params=OVERWRITTEN)
def overwritten(request: pytest.FixtureRequest) -> Offer:
    made: Offer = request.getfixturevalue(f"{request.param}_offer")
    return made


@pytest.fixture(params=MANY)
def listed(request: pytest.FixtureRequest) -> Offer:
    made: Offer = request.getfixturevalue(f"{request.param}_offer")
    return made


@pytest.fixture
def sending(request: pytest.FixtureRequest) -> Iterator[HttpClient]:
    """The client of whichever offer the test has."""
    name = next(name for name in ("offer", "listed", "overwritten") if name in request.fixturenames)
    made: Offer = request.getfixturevalue(name)
    client = made.client()
    yield client
    client.close()


def test_the_files_are_those_that_are_there_and_every_byte_comes(offer: Offer, sending: HttpClient) -> None:
    at = reader(offer, sending)
    assert {file.path: file.size_bytes for file in at.manifest.files} == {path: len(data) for path, data in offer.files.items()}
    for file in at.manifest.files:
        if file.size_bytes:
            assert at.read(file) == offer.files[file.path]


def test_any_range_can_be_asked_for(offer: Offer, sending: HttpClient) -> None:
    at = reader(offer, sending)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    for start, stop in ((0, 1), (1000, 70_000), (len(WEIGHTS) - 1, len(WEIGHTS))):
        assert at.read(file, start, stop) == WEIGHTS[start:stop]


def test_one_version_is_one_artifact_for_whoever_resolves_it(offer: Offer, sending: HttpClient) -> None:
    first = reader(offer, sending).manifest
    other = offer.client()
    try:
        again = reader(offer, other).manifest
    finally:
        other.close()
    assert first.artifact == again.artifact
    assert parse_manifest(first.to_bytes(), first.artifact) == first


def test_every_file_is_pinned_by_more_than_its_size(offer: Offer, sending: HttpClient) -> None:
    assert all(file.is_pinned for file in reader(offer, sending).manifest.files)


def test_what_the_origin_states_about_the_content_is_true(offer: Offer, sending: HttpClient) -> None:
    for file in reader(offer, sending).manifest.files:
        content = offer.files[file.path]
        if file.digest is not None:
            assert file.digest == _digest(file, content)
        if file.checksum is not None and content:
            name = file.checksum.partition(":")[0]
            record = PieceRecord(0, len(content), b"", b"", checksums.algorithm(name).update(memoryview(content), 0))
            assert len(content) < PIECE_BYTES
            assert checksums.whole(name, [record]) == file.checksum


def _digest(file: FileEntry, content: bytes) -> str:
    if (file.digest or "").startswith("git-sha1:"):
        return f"git-sha1:{hashlib.sha1(b'blob %d' % len(content) + bytes(1) + content).hexdigest()}"
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_another_version_of_the_same_size_is_another_artifact(offer: Offer, sending: HttpClient) -> None:
    before = reader(offer, sending).manifest
    offer.change("model.safetensors", bytes(reversed(WEIGHTS)))
    after = reader(offer, sending)
    assert after.manifest.artifact != before.artifact
    file = next(file for file in after.manifest.files if file.path == "model.safetensors")
    assert after.read(file) == bytes(reversed(WEIGHTS))


def test_a_file_that_changed_after_it_was_resolved_is_never_handed_over(overwritten: Offer, sending: HttpClient) -> None:
    at = reader(overwritten, sending)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    assert at.read(file, 0, 100) == WEIGHTS[:100]
    overwritten.change("model.safetensors", b"!" * len(WEIGHTS))
    with pytest.raises(Changed):
        at.read(file, 100, 200)


def test_what_is_not_there_is_a_miss_told_on_one_line(offer: Offer, sending: HttpClient) -> None:
    with pytest.raises(NotFound) as missing:
        reader(offer, sending, ref=offer.gone)
    told(missing.value)


def test_patterns_that_leave_nothing_are_a_mistake_told_on_one_line(offer: Offer, sending: HttpClient) -> None:
    with pytest.raises(Misconfigured, match="nothing to stage") as nothing:
        reader(offer, sending, Selection(include=("*.nothing",)))
    told(nothing.value)


def told(error: PrestageError) -> None:
    assert "\n" not in str(error)
    assert error.hint


def test_include_and_exclude_choose_files(listed: Offer, sending: HttpClient) -> None:
    def paths(selection: Selection) -> list[str]:
        return [file.path for file in reader(listed, sending, selection).manifest.files]

    assert paths(Selection(include=("*.json",))) == ["config.json"]
    assert paths(Selection(exclude=("sub*", "*.txt"))) == ["config.json", "model.safetensors"]
    assert paths(Selection()) == sorted(MODEL)


def test_duplicate_weights_are_left_out_by_default(listed: Offer, sending: HttpClient) -> None:
    listed.change("pytorch_model.bin", b"the same again")
    assert "pytorch_model.bin" not in {file.path for file in reader(listed, sending).manifest.files}


@pytest.mark.parametrize("name", ["Config.json", ".hf/refs", "n" * 250])
def test_names_that_must_not_be_written_are_refused_and_named(name: str, listed: Offer, sending: HttpClient) -> None:
    if len(name) > 200:
        name = "/".join([name] * 5)
    listed.change(name, b"x")
    with pytest.raises(Misconfigured, match="file name") as refused:
        reader(listed, sending)
    told(refused.value)
    excluded = Selection(exclude=(name, "*/" + name))
    assert reader(listed, sending, excluded).manifest.files
