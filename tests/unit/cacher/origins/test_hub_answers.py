"""What a Hub says, read without trusting it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.hub_answers import NoRepository, NotHub, Token, commit_of, next_link, refusal, tree_files

SHA1, SHA256 = "0123456789abcdef0123456789abcdef01234567", "ab" * 32
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", "path", "size", "oid", "lfs", "sha"]), inner)
    ),
)


def test_a_tree_gives_lfs_files_their_sha256_and_git_files_their_blob_id() -> None:
    items = [
        {"type": "directory", "oid": SHA1, "size": 0, "path": "sub"},
        {"type": "file", "oid": SHA1, "size": 7, "path": "config.json"},
        {
            "type": "file",
            "oid": SHA1,
            "size": 9,
            "path": "sub/m.safetensors",
            "lfs": {"oid": SHA256, "size": 9, "pointerSize": 130},
        },
        {"type": "file", "oid": SHA1, "size": 9, "path": "old", "lfs": {"oid": f"sha256:{SHA256}"}, "xetHash": "x"},
    ]
    assert tree_files(json.dumps(items).encode()) == [
        FileEntry("config.json", 7, digest=f"git-sha1:{SHA1}"),  # type: ignore[arg-type]  # Digest is text here
        FileEntry("sub/m.safetensors", 9, digest=f"sha256:{SHA256}"),  # type: ignore[arg-type]  # Digest is text here
        FileEntry("old", 9, digest=f"sha256:{SHA256}"),  # type: ignore[arg-type]  # Digest is text here
    ]


BAD_TREES: dict[str, object] = {
    "an object": {"error": "x"},
    "no path": [{"type": "file", "oid": SHA1, "size": 1}],
    "no size": [{"type": "file", "oid": SHA1, "path": "f"}],
    "negative": [{"type": "file", "oid": SHA1, "path": "f", "size": -1}],
    "a boolean for a size": [{"type": "file", "oid": SHA1, "path": "f", "size": True}],
    "an id that is none": [{"type": "file", "oid": "../../etc", "path": "f", "size": 1}],
    "lfs without id": [{"type": "file", "oid": SHA1, "path": "f", "size": 1, "lfs": {}}],
    "lfs of another size": [{"type": "file", "oid": SHA1, "path": "f", "size": 1, "lfs": {"oid": SHA256, "size": 2}}],
    "unknown type": [{"type": "symlink", "oid": SHA1, "path": "f", "size": 1}],
    "no item": ["x"],
}


@pytest.mark.parametrize("case", BAD_TREES)
def test_a_tree_that_would_leave_a_file_unchecked_is_refused(case: str) -> None:
    with pytest.raises(NotHub):
        tree_files(json.dumps(BAD_TREES[case]).encode())


@given(JSON)
def test_any_json_is_refused_or_gives_files_with_a_digest(doc: object) -> None:
    try:
        files = tree_files(json.dumps(doc).encode())
    except NotHub:
        return
    assert all(file.digest and file.size_bytes >= 0 for file in files)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_refused(raw: bytes) -> None:
    with pytest.raises(NotHub):
        commit_of(raw)


def test_deep_json_is_refused() -> None:
    for read in (tree_files, commit_of):
        with pytest.raises(NotHub):
            read(b"[" * 100_000)


def test_a_commit_is_forty_hex_digits() -> None:
    assert commit_of(json.dumps({"sha": SHA1}).encode()) == SHA1
    for wrong in (None, "main", SHA1.upper(), SHA1 + "\n", 7):
        with pytest.raises(NotHub):
            commit_of(json.dumps({"sha": wrong}).encode())


LINKS = {
    '<https://h/tree?cursor=2>; rel="next"': "https://h/tree?cursor=2",
    '<https://h/1>; rel="prev", <https://h/3>; rel="next"; title="a, b"': "https://h/3",
    "</relative?x=1>; rel=next": "/relative?x=1",
    '<https://h/1>; rel="prev"': None,
    '<https://h/1>; title="next"': None,
    "": None,
    '<<>>;;; rel="next': None,
}


@pytest.mark.parametrize("value", LINKS)
def test_the_next_page_is_found_in_a_link_header(value: str) -> None:
    assert next_link(value) == LINKS[value]


@given(st.text(alphabet='<>;,=" relnxt*', max_size=3000))
def test_no_link_header_takes_long(value: str) -> None:
    found = next_link(value)
    assert found is None or "<" not in found


NONE, GIVEN = Token(None, "without a token"), Token("hf_secret", "with the token from HF_TOKEN")
REFUSALS: dict[str, tuple[int, str, str, Token, type[PrestageError], str]] = {
    "gated, no token": (401, "GatedRepo", "Please log in.", NONE, Denied, "set HF_TOKEN"),
    "gated, not let in": (403, "GatedRepo", "ask for access", GIVEN, Denied, "from HF_TOKEN"),
    "bad token": (401, "", "Invalid credentials in Authorization header", GIVEN, Denied, "not accepted"),
    "bad token for a repository": (401, "RepoNotFound", "Invalid credentials", GIVEN, Denied, "not accepted"),
    "missing or private, no token": (401, "RepoNotFound", "Invalid username or password.", NONE, NoRepository, "set HF_TOKEN"),
    "missing or private, with token": (404, "RepoNotFound", "Repository not found", GIVEN, NoRepository, "from HF_TOKEN"),
    "no revision": (404, "RevisionNotFound", "Invalid rev id: x", GIVEN, NotFound, "no such revision"),
    "no file": (404, "EntryNotFound", "Entry not found", GIVEN, NotFound, "no such file"),
    "no hub at all": (404, "", "", NONE, NotFound, "no such repository"),
    "forbidden": (403, "", "not you", GIVEN, Denied, "from HF_TOKEN"),
    "taken down": (451, "", "", NONE, Denied, "451"),
    "bad request": (400, "", "what?", NONE, Misconfigured, "HF_ENDPOINT"),
    "not answered": (501, "", "", NONE, Unavailable, "501"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_each_refusal_has_its_class_and_says_what_to_try(case: str) -> None:
    status, code, message, token, kind, says = REFUSALS[case]
    headers = {"x-error-code": code, "x-error-message": message} if code else {"x-error-message": message}
    refused = refusal("hf://o/m@main", ResponseHead(status, headers), b"", token=token, page="https://h/o/m", path="f.bin")
    assert type(refused) is kind
    assert says in str(refused)
    assert "hf://o/m@main" in refused.message
    assert refused.hint
    assert "hf_secret" not in str(refused)
    assert "\n" not in str(refused)
