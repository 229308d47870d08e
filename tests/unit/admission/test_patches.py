"""Patches: they lead from one object to the other, and touch what differs only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pods.patching import patched

from prestage.control.patches import difference

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c/d", "e~f"]), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(["a", "b", "c/d", "e~f"]), values, max_size=4)


@given(objects, objects)
def test_a_patch_leads_from_one_object_to_the_other(before: dict[str, object], after: dict[str, object]) -> None:
    assert patched(before, difference(before, after)) == after


@given(objects)
def test_nothing_is_said_about_what_is_equal(same: dict[str, object]) -> None:
    assert difference(same, dict(same)) == []


def test_a_list_grows_at_its_end_and_slashes_are_escaped() -> None:
    assert difference({"a/b": [1]}, {"a/b": [1, 2]}) == [{"op": "add", "path": "/a~1b/-", "value": 2}]
