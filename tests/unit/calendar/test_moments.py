"""When cron fires: against a minute-by-minute oracle, over changes of clocks, leap days and zones."""

from __future__ import annotations

import datetime
import itertools
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prestage.api import texts
from prestage.calendar.moments import Cron, Reading, cron_of, moments_of

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago", "Africa/Cairo")
CHANGES = (  # of the zones above, in UTC
    "2026-03-29T01:00",
    "2026-10-25T01:00",
    "2026-03-08T07:00",
    "2026-11-01T06:00",
    "2026-04-04T15:00",
    "2026-10-03T15:30",
    "2026-04-05T03:00",
    "2026-09-06T04:00",
    "2026-04-23T22:00",
    "2026-10-29T21:00",
    "2028-02-28T12:00",
)
MINUTES = st.sampled_from(["0", "30", "*/15", "*", "5,35", "10-20/5", "59"])
HOURS = st.sampled_from(["*", "0", "1", "2", "3", "23", "1,2", "*/2", "0-4", "1-3/2", "8"])
DAYS = st.sampled_from(["*", "*", "*", "1", "29", "*/2", "25-31", "?"])
MONTHS = st.sampled_from(["*", "*", "feb", "3-4", "10,11"])
WEEKDAYS = st.sampled_from(["*", "*", "*", "0", "7", "1-5", "SUN", "*/2"])
FIELDS = st.tuples(MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS).map(" ".join)


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def shown(moments: list[float], zone: str) -> list[str]:
    return [datetime.datetime.fromtimestamp(one, ZoneInfo(zone)).strftime("%m-%d %H:%M %z") for one in moments]


def first(cron: Cron, since: float, count: int) -> list[float]:
    return list(itertools.islice(cron.all_after(since), count))


def matches(sets: texts.Cron, wall: datetime.datetime, *, either: bool) -> bool:
    weekday = (wall.weekday() + 1) % 7
    day = wall.day in sets.days or weekday in sets.weekdays if either else wall.day in sets.days and weekday in sets.weekdays
    return wall.minute in sets.minutes and wall.hour in sets.hours and wall.month in sets.months and day


def is_star(word: str, reading: Reading) -> bool:
    return word in "*?" or (word.startswith("*") and reading is Reading.READY)


def fired(fields: str, zone: str, since: float, until: float, reading: Reading) -> list[float]:
    """Minute by minute: what the wall clock shows is what counts. READY of fixed hours: the first of two, the end of a gap."""
    words, sets, place = fields.split(), texts.cron(fields), ZoneInfo(zone)
    either = not is_star(words[2], reading) and not is_star(words[4], reading)
    is_fixed = reading is Reading.READY and not words[0].startswith("*") and not words[1].startswith("*") and zone != "UTC"
    found = set[float]()
    start = (since // 60 - 24 * 60) * 60
    before: datetime.datetime | None = None
    minutes = int((until - start) // 60)
    for moment in (start + 60 * number for number in range(minutes + 1)):
        wall = datetime.datetime.fromtimestamp(moment, place)
        bare = wall.replace(tzinfo=None, fold=0)
        skipped = list[datetime.datetime]()
        if before is not None and is_fixed:
            gap = int((bare - before).total_seconds() // 60)
            skipped = [before + datetime.timedelta(minutes=step) for step in range(1, gap)]
        if (not (is_fixed and wall.fold) and matches(sets, bare, either=either)) or any(
            matches(sets, one, either=either) for one in skipped
        ):
            found.add(moment)
        before = bare
    return sorted(one for one in found if since < one <= until)


@settings(max_examples=40)
@given(FIELDS, st.sampled_from(ZONES), st.sampled_from(CHANGES), st.integers(-26 * 60, 26 * 60), st.sampled_from(list(Reading)))
def test_every_firing_around_a_change_of_clocks_is_the_wall_clocks(
    fields: str, zone: str, change: str, minutes: int, reading: Reading
) -> None:
    since = at(change) + minutes * 60
    until = since + 30 * 3600
    cron = cron_of(fields, zone, reading=reading)
    expected = fired(fields, zone, since, until, reading)
    assert shown(list(itertools.takewhile(lambda one: one <= until, cron.all_after(since))), zone) == shown(expected, zone)
    last = cron.last_until(until, since=since)
    assert last == (expected[-1] if expected else None)


def test_an_hour_that_clocks_skip_is_met_when_they_jump_and_has_no_cron_job() -> None:
    since = at("2026-03-28T12:00", "Europe/Berlin")
    ready, job = cron_of("30 2 * * *", "Europe/Berlin"), cron_of("30 2 * * *", "Europe/Berlin", reading=Reading.CRON_JOB)
    assert shown(first(ready, since, 2), "Europe/Berlin") == ["03-29 03:00 +0200", "03-30 02:30 +0200"]
    assert shown(first(job, since, 2), "Europe/Berlin") == ["03-30 02:30 +0200", "03-31 02:30 +0200"]


def test_an_hour_that_comes_twice_is_met_once_and_has_two_cron_jobs() -> None:
    since = at("2026-10-24T12:00", "Europe/Berlin")
    ready, job = cron_of("30 2 * * *", "Europe/Berlin"), cron_of("30 2 * * *", "Europe/Berlin", reading=Reading.CRON_JOB)
    assert shown(first(ready, since, 2), "Europe/Berlin") == ["10-25 02:30 +0200", "10-26 02:30 +0100"]
    assert shown(first(job, since, 3), "Europe/Berlin") == ["10-25 02:30 +0200", "10-25 02:30 +0100", "10-26 02:30 +0100"]


def test_every_half_hour_goes_by_real_time_over_both_changes() -> None:
    for reading in Reading:
        cron = cron_of("*/30 * * * *", "America/New_York", reading=reading)
        for change in ("2026-03-08T07:00", "2026-11-01T06:00"):
            found = first(cron, at(change) - 7200, 8)
            assert [after - before for before, after in itertools.pairwise(found)] == [1800.0] * 7


def test_leap_days_and_months_that_are_too_short_are_passed_over() -> None:
    leap = cron_of("0 8 29 2 *", "Europe/Berlin")
    assert first(leap, at("2026-01-01T00:00"), 2) == [
        at("2028-02-29T08:00", "Europe/Berlin"),
        at("2032-02-29T08:00", "Europe/Berlin"),
    ]
    ends = cron_of("0 0 31 * *")
    assert [datetime.datetime.fromtimestamp(one, datetime.UTC).month for one in first(ends, at("2026-01-31T01:00"), 4)] == [
        3,
        5,
        7,
        8,
    ]


def test_a_day_or_a_weekday_is_enough_where_both_are_named() -> None:
    cron = cron_of("0 0 13 * 5")
    days = [datetime.datetime.fromtimestamp(one, datetime.UTC).day for one in first(cron, at("2026-10-01T12:00"), 4)]
    assert days == [2, 9, 13, 16]


@pytest.mark.parametrize(
    ("fields", "zone", "said"),
    [
        ("0 0 30 2 *", "UTC", "names a day that none of its months has"),
        ("0 0 31 4,6 *", "UTC", "names a day that none of its months has"),
        ("0 24 * * *", "UTC", "no hour from 0 to 23"),
        ("0 8 * *", "UTC", "has 4 fields"),
        ("0 8 * * *", "Europe/Atlantis", "is no time zone"),
        ("0 8 * * *", "../etc/passwd", "is no time zone"),
        ("0 8 * * *", "posixrules/../..", "is no time zone"),
        ("0 8 L * *", "UTC", "is no day"),
        ("@daily", "UTC", "has 1 fields"),
    ],
)
def test_what_never_fires_or_has_no_zone_says_what_to_write(fields: str, zone: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cron_of(fields, zone)


def test_cron_jobs_may_use_names_for_whole_schedules_but_every_is_not_foretold() -> None:
    assert cron_of("@hourly", reading=Reading.CRON_JOB).after(at("2026-01-01T00:30")) == at("2026-01-01T01:00")
    assert cron_of("@Weekly", "Asia/Tokyo", reading=Reading.CRON_JOB).after(at("2026-01-01T00:30")) == at(
        "2026-01-04T00:00", "Asia/Tokyo"
    )
    with pytest.raises(ValueError, match="@every goes by the last run"):
        cron_of("@every 1h", reading=Reading.CRON_JOB)


@given(st.text(max_size=40), st.text(max_size=20), st.sampled_from(list(Reading)))
def test_any_text_is_a_schedule_or_a_value_error(fields: str, zone: str, reading: Reading) -> None:
    try:
        cron = cron_of(fields, zone, reading=reading)
    except ValueError as exc:
        assert str(exc)
    else:
        assert cron.after(0.0) is None or cron.after(0.0) > 0.0  # type: ignore[operator]  # not None here


@given(FIELDS, st.floats(allow_nan=False, allow_infinity=True))
def test_any_clock_is_answered(fields: str, now: float) -> None:
    cron_of(fields, "Europe/Berlin").after(now)


def test_a_wall_is_shown_never_once_or_twice() -> None:
    place = ZoneInfo("Europe/Berlin")
    wall = datetime.datetime.fromisoformat
    assert moments_of(wall("2026-03-29T02:30"), place) == []
    assert len(moments_of(wall("2026-07-01T02:30"), place)) == 1
    assert len(moments_of(wall("2026-10-25T02:30"), place)) == 2
