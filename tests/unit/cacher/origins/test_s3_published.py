"""The manifest of a published prefix: written one way, read strictly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.digests import Digest
from prestage.cacher.errors import Misconfigured
from prestage.cacher.manifest import FileEntry
from prestage.cacher.origins.s3_published import NotPublished, difference, parse_publication, publication_of

SHA256 = Digest(f"sha256:{'a' * 64}")
FILES = [
    FileEntry("b", 2, digest=SHA256, etag='"2"', version="v2"),
    FileEntry("a/\u00e9", 1, digest=SHA256, etag='"1"'),
]


def test_it_is_read_back_and_its_version_is_that_of_the_content() -> None:
    publication = publication_of(FILES)
    assert parse_publication(publication.to_bytes()) == publication
    assert [file.path for file in publication.files] == ["a/\u00e9", "b"]
    other_objects = [FileEntry(file.path, file.size_bytes, digest=SHA256, etag='"9"') for file in FILES]
    assert publication_of(other_objects).revision == publication.revision
    assert publication_of(FILES[:1]).revision != publication.revision


def changed(**row: object) -> bytes:
    document = json.loads(publication_of(FILES[:1]).to_bytes())
    document["files"][0] |= row
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        changed(path="../../etc/passwd"),
        changed(path=".prestage/x"),
        changed(size=-1),
        changed(size=3),
        changed(sha256="b" * 64),
        changed(sha256="short"),
        changed(etag="two\nlines"),
        changed(version=3),
        publication_of([]).to_bytes(),
        publication_of([*FILES, *FILES]).to_bytes(),
    ],
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(NotPublished):
        parse_publication(raw)


def test_a_newer_format_asks_for_an_upgrade() -> None:
    with pytest.raises(Misconfigured, match="2"):
        parse_publication(b'{"format": 2}')


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_is_refused(document: object) -> None:
    for tried in (document, {"format": 1, "files": document, "revision": f"sha256:{'0' * 64}"}):
        with pytest.raises((NotPublished, Misconfigured)):
            parse_publication(json.dumps(tried).encode())


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (FileEntry("b", 2, etag="2", version="v2"), ""),
        (FileEntry("b", 3, etag="2"), "3 bytes"),
        (FileEntry("b", 2, etag='"3"'), "ETag"),
        (FileEntry("b", 2, etag='"2"', version="v3"), "version"),
    ],
)
def test_an_object_that_differs_says_how(found: FileEntry, says: str) -> None:
    assert (says in difference(FILES[0], found)) if says else difference(FILES[0], found) == ""
