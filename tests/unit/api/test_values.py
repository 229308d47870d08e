"""Quantities, durations, schedules, conditions."""

from __future__ import annotations

import datetime
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.api.conditions import find, holds, summed, with_condition
from prestage.api.texts import cron, duration_s, quantity_bytes, zone
from prestage.api.values import Condition, ConditionStatus

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(minutes=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("500Gi", 500 * 2**30), ("2T", 2 * 10**12), ("1.5Ki", 1536), ("1e3", 1000), ("1E", 10**18), ("0", 0), (7, 7)],
        *[(".5Ti", 2**39), ("5.Ti", 5 * 2**40), ("+5Ti", 5 * 2**40), ("1e+12", 10**12), ("1E3", 1000), ("25e-1", 3)],
        *[
            ("1500m", 2),
            ("1n", 1),
            ("500000000000u", 500000),
            ("-0", 0),
            ("Gi", 0),
            ("+", 0),
            (".", 0),
            ("1.0000000000000000000000000000001", 2),
        ],
        *[("1e999", 2**63 - 1), ("99Ei", 2**63 - 1), ("1000000000000000000000", 2**63 - 1), ("1e-999999999", 1)],
    ],
)
def test_quantities_are_those_of_kubernetes(text: str | int, expected: int) -> None:
    assert quantity_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "1GB", "-1", "1 Gi", "1e", "e3x", "1.2.3", "1ki", "1K", "٣", "1e1000000000000000000", -1])
def test_what_is_no_quantity_says_how_to_write_one(text: str | int) -> None:
    with pytest.raises(ValueError, match="write bytes as 500Gi, 2T or a plain number"):
        quantity_bytes(text)


@given(st.integers(0, 10**12), st.sampled_from(["", "k", "M", "Ki", "Mi", "Gi"]))
def test_a_whole_quantity_is_exact(count: int, suffix: str) -> None:
    scale = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[suffix]
    assert quantity_bytes(f"{count}{suffix}") == min(count * scale, 2**63 - 1)


def test_durations_add_their_parts() -> None:
    assert duration_s("1h30m") == 5400
    assert math.isclose(duration_s("1s500ms"), 1.5)
    for text in ("", "10", "1d", "-1s", "1 h", "1.5h"):
        with pytest.raises(ValueError, match="write it as 10h"):
            duration_s(text)


def test_cron_fields_are_numbers_names_lists_ranges_and_steps() -> None:
    got = cron("*/20 8-10,22 1 JAN mon,7")
    sets = (got.minutes, got.hours, got.days, got.months, got.weekdays)
    assert [sorted(one) for one in sets] == [[0, 20, 40], [8, 9, 10, 22], [1], [1], [0, 1]]
    assert cron("5/20 * * * *").minutes == {5, 25, 45}
    assert cron("0 0 ? * 1").any_day
    assert cron("0 0 30 2 1").weekdays == {1}, "a weekday makes an impossible day harmless"


@given(st.one_of(st.text(max_size=40), st.text(alphabet="0123456789 */,-?JANmon", max_size=40)))
def test_whatever_is_written_is_a_schedule_or_answered(text: str) -> None:
    try:
        got = cron(text)
    except ValueError as exc:
        assert str(exc)
    else:
        assert got.minutes <= set(range(60))
        assert got.hours <= set(range(24))
        assert all((got.minutes, got.hours, got.days, got.months, got.weekdays))


@given(st.text(max_size=40))
def test_whatever_is_written_is_a_zone_or_answered(text: str) -> None:
    try:
        zone(text)
    except ValueError as exc:
        assert "IANA" in str(exc)


def test_a_transition_is_a_change_of_status_and_nothing_else() -> None:
    first = with_condition(None, "Ready", ConditionStatus.FALSE, reason="Staging", message="1 of 2", now=NOW)
    second = with_condition(first, "Ready", ConditionStatus.FALSE, reason="Staging", message="2 of 2", now=LATER)
    third = with_condition(second, "Ready", ConditionStatus.TRUE, reason="Warm", now=LATER)
    assert [one[0].last_transition_time for one in (first, second, third)] == [NOW, NOW, LATER]
    assert (holds(second, "Ready"), holds(third, "Ready")) == (False, True)
    assert with_condition(third, "Ready", ConditionStatus.TRUE, reason="Warm", now=LATER + LATER.resolution) == third


def test_another_condition_is_left_as_it_is() -> None:
    foreign = Condition(type="Theirs", status=ConditionStatus.TRUE, reason="R", last_transition_time=NOW)
    got = with_condition([foreign], "Ready", ConditionStatus.TRUE, reason="Warm", now=LATER)
    assert find(got, "Theirs") is foreign
    assert [one.type for one in got] == ["Theirs", "Ready"]


def test_ready_is_what_the_first_part_that_is_not_true_says() -> None:
    parts = ("Resolved", "Authorized")
    assert summed([], parts)[:2] == (ConditionStatus.UNKNOWN, "ResolvedUnknown")
    one = with_condition(None, "Resolved", ConditionStatus.TRUE, reason="R", now=NOW)
    two = with_condition(one, "Authorized", ConditionStatus.FALSE, reason="Denied", message="the hub says 403", now=NOW)
    assert summed(two, parts) == (ConditionStatus.FALSE, "Denied", "the hub says 403")
    assert summed(with_condition(two, "Authorized", ConditionStatus.TRUE, reason="R", now=NOW), parts)[0] is ConditionStatus.TRUE
