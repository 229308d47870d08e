"""What is open, what comes next, and how long that is so."""

from __future__ import annotations

import datetime
import itertools
import math
import time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prestage.calendar.moments import cron_of
from prestage.calendar.windows import ALWAYS, Again, Between, Once, Opening, Openings, Window, again

DAY = 86400.0
HOURLY = again("0 * * * *", None, 600)
OFFICE = again("0 8 * * 1-5", "Europe/Berlin", 10 * 3600)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_before_within_and_after_a_window() -> None:
    monday, friday = at("2026-11-23T08:00", "Europe/Berlin"), at("2026-11-27T08:00", "Europe/Berlin")
    assert OFFICE.at(monday - 60) == Openings(None, Opening(monday, monday + 36000), monday)
    assert OFFICE.at(monday).open == Opening(monday, monday + 36000)
    assert OFFICE.at(monday + 35999) == Openings(
        Opening(monday, monday + 36000), Opening(monday + DAY, monday + DAY + 36000), monday + 36000
    )
    assert OFFICE.at(monday + 36000).open is None
    assert OFFICE.at(friday + 40000).next == Opening(friday + 3 * DAY, friday + 3 * DAY + 36000)


def test_a_window_over_a_change_of_clocks_lasts_as_long_as_said() -> None:
    night = again("0 22 * * *", "Europe/Berlin", 8 * 3600)
    begins = at("2026-10-24T22:00", "Europe/Berlin")
    assert night.at(begins + 1).open == Opening(begins, begins + 8 * 3600)
    coming = night.at(begins + 1).next
    assert coming is not None
    assert coming.begins - begins == 25 * 3600


def test_windows_longer_than_their_period_are_one_that_does_not_end() -> None:
    long = again("0 8 * * *", None, 30 * 3600)
    eight = at("2026-11-26T08:00")
    found = long.at(eight + 5 * 3600)
    assert found.is_joined
    assert found.open == Opening(eight, eight + DAY + 30 * 3600)
    assert found.changes_at == eight + DAY
    assert not OFFICE.at(at("2026-11-23T10:00", "Europe/Berlin")).is_joined


def test_once_is_once_and_always_is_from_now() -> None:
    once = Once(1000.0, 60.0)
    assert once.at(999.0) == Openings(None, Opening(1000.0, 1060.0), 1000.0)
    assert once.at(1059.0) == Openings(Opening(1000.0, 1060.0), None, 1060.0)
    assert once.at(1060.0) == Openings(None, None, math.inf)
    assert ALWAYS.at(5.0) == Openings(Opening(5.0, math.inf), None, math.inf)


def test_from_one_schedule_to_the_other_also_over_midnight_and_when_the_clock_starts_in_the_middle() -> None:
    night = Between(cron_of("0 22 * * *"), cron_of("0 6 * * *"))
    ten, six = at("2026-11-26T22:00"), at("2026-11-27T06:00")
    assert night.at(ten - 1) == Openings(None, Opening(ten, six), ten)
    assert night.at(ten) == Openings(Opening(ten, six), Opening(ten + DAY, six + DAY), six)
    assert night.at(six) == Openings(None, Opening(ten + DAY, six + DAY), ten + DAY)
    same = Between(cron_of("0 8 * * *"), cron_of("0 8 * * *"))
    assert same.at(at("2026-11-26T09:00")).open is None
    yearly = Between(cron_of("0 0 1 1 *"), cron_of("0 0 1 7 *"))
    assert yearly.at(at("2026-03-01T00:00")).open == Opening(at("2026-01-01T00:00"), at("2026-07-01T00:00"))


def test_a_window_of_seconds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"too short: write at least 1m"):
        again("0 8 * * *", None, 30)


@given(
    st.sampled_from(
        [HOURLY, OFFICE, again("30 1 * * *", "Europe/Berlin", 7200), Once(1.7e9, 3600), again("0 0 29 2 *", None, DAY)]
    ),
    st.integers(1_700_000_000, 1_900_000_000),
)
def test_what_is_said_holds_until_it_changes(window: Window, now: int) -> None:
    found = window.at(now)
    assert found.changes_at > now
    if found.open is not None:
        assert found.open.begins <= now < found.open.ends
    if found.next is not None:
        assert found.next.begins > now
    for later in (now, (now + min(found.changes_at, now + DAY)) / 2, min(found.changes_at, now + DAY) - 1):
        if later >= now:
            assert window.at(later) == found


@settings(max_examples=40)
@given(st.integers(1_761_000_000, 1_762_000_000))  # October 2025, clocks go back on the 26th
def test_walking_from_change_to_change_meets_every_window_once(now: int) -> None:
    window = again("15,45 2 * * *", "Europe/Berlin", 900)
    assert isinstance(window, Again)
    expected = list(itertools.islice(window.cron.all_after(now), 4))
    moment, met = float(now), list[float]()
    while len(met) < 4:
        moment = window.at(moment).changes_at
        if (found := window.at(moment).open) is not None:
            met.append(found.begins)
    assert met == expected


def test_minutes_and_years_are_answered_in_milliseconds() -> None:
    """A window of a year that begins every minute, one in four years, a clock that jumped."""
    for window in (again("* * * * *", "Europe/Berlin", 366 * DAY), again("0 0 29 2 *", None, 60), OFFICE):
        for now in (0.0, 1.8e9, 2.5e11):
            began_s = time.process_time()
            window.at(now)
            assert time.process_time() - began_s < 0.5
