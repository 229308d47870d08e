"""Wishes on disk: what was kept is read back, whatever else lies there is passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.store.disk import Disk
from prestage.cacher.store.layout import Layout
from prestage.cacher.store.wishes import KeptWish, Wishes

WISH = KeptWish("hf://org/name@main", ("*.json",), ("*.bin",), 20, is_paused=True)


def wishes(root: Path) -> Wishes:
    layout = Layout(root)
    layout.wishes.mkdir(exist_ok=True)
    return Wishes(layout, Disk())


def test_a_wish_is_read_back_as_it_was_and_has_a_name_that_priority_does_not_change(tmp_path: Path) -> None:
    kept = wishes(tmp_path)
    kept.keep(WISH)
    assert list(kept.all()) == [WISH]
    urgent = KeptWish(WISH.ref, WISH.include, WISH.exclude, 0, is_kept=False)
    assert urgent.id == WISH.id != KeptWish(WISH.ref).id
    kept.keep(urgent)
    assert list(kept.all()) == [urgent]
    kept.drop(urgent)
    kept.drop(urgent)
    assert list(kept.all()) == []
    assert (tmp_path / "wishes").stat().st_mode


def test_a_wish_of_a_version_that_knew_no_keep_is_kept(tmp_path: Path) -> None:
    kept = wishes(tmp_path)
    kept.keep(WISH)
    path = tmp_path / "wishes" / f"{WISH.id}.json"
    document = json.loads(path.read_bytes())
    del document["keep"]
    path.write_text(json.dumps(document))
    assert list(kept.all()) == [WISH]


@pytest.mark.parametrize("field", ["format", "ref", "include", "exclude", "priority", "paused"])
def test_a_wish_that_lacks_something_or_says_something_else_is_passed_over(field: str, tmp_path: Path) -> None:
    kept = wishes(tmp_path)
    kept.keep(WISH)
    other = KeptWish("file:///other")
    kept.keep(other)
    path = tmp_path / "wishes" / f"{WISH.id}.json"
    document = json.loads(path.read_bytes())
    for wrong in ({field: None}, {field: {"a": 1}}) if field != "paused" else ():
        path.write_text(json.dumps({**document, **wrong}))
        assert WISH not in list(kept.all())
    del document[field]
    path.write_text(json.dumps(document))
    assert list(kept.all()) == [other]


@given(
    raw=st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        lambda x: json.dumps(x).encode()
    )
)
def test_whatever_bytes_lie_there_nothing_is_raised(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("w")
    kept = wishes(root)
    kept.keep(WISH)
    (root / "wishes" / f"{'0' * 16}.json").write_bytes(raw)
    (root / "wishes" / f"{'1' * 16}.json").mkdir()
    assert list(kept.all()) == [WISH]


def test_a_pause_is_there_until_it_is_taken_off(tmp_path: Path) -> None:
    kept = wishes(tmp_path)
    assert not kept.are_paused
    kept.pause()
    kept.pause()
    assert wishes(tmp_path).are_paused
    kept.resume()
    kept.resume()
    assert not wishes(tmp_path).are_paused
