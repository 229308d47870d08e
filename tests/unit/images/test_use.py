"""Whether what was staged was of use: by image records alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.images.names import OciDigest
from prestage.images.use import Record, Records, Use, Waste, children, tag_of

INDEX, MANIFEST, OTHER = (OciDigest("sha256:" + letter * 64) for letter in "abc")
NAME, TAG = f"reg.example/team/app:1@{INDEX}", "reg.example/team/app:1"
STAGED_AT = 1000.0


def waste(*records: Record) -> Waste:
    return Records({one.name: one for one in records}).waste(NAME, (INDEX, MANIFEST), STAGED_AT)


def test_an_image_is_of_use_once_a_pull_of_it_has_ended_by_whatever_name() -> None:
    assert waste() == Waste(Use.UNUSED)
    assert waste(Record("other/app:2", OTHER, 2000)) == Waste(Use.UNUSED)
    for target in (INDEX, MANIFEST):
        assert waste(Record("mirror.example/app:9", target, 500)) == Waste(Use.USED)
    assert waste(Record(TAG, OTHER, 2000), Record("reg.example/team/app@x", INDEX, 500)) == Waste(Use.USED), "of both"


def test_a_pull_of_another_image_by_its_tag_has_wasted_it_unless_that_was_before_it_was_staged() -> None:
    assert waste(Record(TAG, OTHER, 2000)) == Waste(Use.MOVED, OTHER)
    assert waste(Record(TAG, OTHER, 999)) == Waste(Use.UNUSED)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("docker.io/nginx:1", "docker.io/library/nginx:1"),
        ("docker.io/team/nginx:1", "docker.io/team/nginx:1"),
        (f"reg.example:5000/app@{INDEX}", None),
        ("reg.example:5000/app", "reg.example:5000/app:latest"),
        ("no name", None),
    ],
)
def test_a_tag_is_what_a_pull_calls_it(name: str, tag: str | None) -> None:
    assert tag_of(name) == tag


@given(st.text())
def test_whatever_a_lease_says_its_tag_can_be_asked_for(name: str) -> None:
    tag_of(name)


def test_what_a_pull_keeps_stands_in_labels() -> None:
    ref = "containerd.io/gc.ref.content"
    assert children({f"{ref}.l.0": "x", f"{ref}.config": "y", "containerd.io/gc.ref.snapshot.overlayfs": "z"}) == ["x", "y"]
