"""The lock: written one way, read strictly, and what it picks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Misconfigured, NotFound
from prestage.cacher.lockfile import Pin, chosen, parse, read, render, write
from prestage.cacher.refs import HfRef, S3Ref

A, B = ArtifactId(f"sha256:{'a' * 64}"), ArtifactId(f"sha256:{'b' * 64}")
HUB = Pin("hf://org/name@main", A, 3, 1234, "c" * 40)
BUCKET = Pin("s3://bucket/models/name/", B, 2, 5, None, ("*.safetensors",), ("x[1]", 'quote " and \\ and \x7f and é'))

TEXT = f"""# Made by `prestage lock`: which artifact each ref stands for. `prestage stage --lock` stages just these.
version = 1

[[artifact]]
ref = "hf://org/name@main"
include = []
exclude = []
revision = "{"c" * 40}"
artifact = "{A}"
files = 3
bytes = 1234
"""


def test_it_is_written_as_documented_and_read_back() -> None:
    assert render([HUB]) == TEXT
    assert parse(TEXT) == [HUB]


def test_order_and_time_make_no_difference(tmp_path: Path) -> None:
    assert render([HUB, BUCKET]) == render([BUCKET, HUB])
    write(tmp_path / "lock", [BUCKET, HUB])
    assert read(tmp_path / "lock") == [HUB, BUCKET]
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3), st.integers(0, 2**53))
def test_any_pattern_survives(patterns: list[str], count: int) -> None:
    pin = Pin("file:///a%20b%25", A, count, count, None, tuple(patterns), tuple(patterns))
    assert parse(render([pin])) == [pin]


@given(st.text())
def test_any_text_is_a_lock_or_misconfigured(text: str) -> None:
    for tried in (text, f"version = 1\n{text}", f"{TEXT}{text}", TEXT.replace("3", text)):
        try:
            pins = parse(tried)
        except Misconfigured as exc:
            assert exc.hint
            continue
        assert all(pin.artifact.startswith("sha256:") for pin in pins)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 1", "version = 2", "version"),
        ("version = 1", "", "version"),
        ("version = 1", "version = 1\nmore = 2", "more than"),
        ("files = 3", "files = -3", "count"),
        ("files = 3", "files = true", "count"),
        ("files = 3", "colour = 3", "colour"),
        ("hf://org/name@main", "hf://org/name", "hf://org/name@main"),
        ("hf://org/name@main", "ftp://x/y", "scheme"),
        (str(A), "sha256:12", "artifact"),
        ("include = []", "include = [1]", "text"),
        ("include = []", "include = ", "TOML"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        parse(TEXT.replace(old, new, 1))


def test_a_ref_twice_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="twice"):
        parse(TEXT + TEXT.partition("version = 1\n")[2])
    with pytest.raises(NotFound, match="there is no"):
        read(tmp_path / "none")


@pytest.mark.parametrize("name", ["hf://org/name@main", "hf://org/name", "org/name", "models/name"])
def test_a_ref_or_the_end_of_its_name_picks(name: str) -> None:
    try:
        assert len(chosen([HUB, BUCKET], name)) == 1
    except NotFound:
        assert name == "models/name"
    assert chosen([HUB, BUCKET], None) == [HUB, BUCKET]


def test_a_name_of_two_or_of_none_is_refused() -> None:
    with pytest.raises(Misconfigured, match="several"):
        chosen([HUB, BUCKET], "name")
    with pytest.raises(NotFound, match="other"):
        chosen([HUB, BUCKET], "other")


def test_a_commit_is_asked_for_where_there_is_one() -> None:
    assert HUB.place == HfRef("org/name", "c" * 40, A)
    assert BUCKET.place == S3Ref("bucket", "models/name/", None, B)
