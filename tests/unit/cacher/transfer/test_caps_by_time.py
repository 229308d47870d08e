"""Schedules of rates: what is read, when what holds, and a limit that follows one while threads wait."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Misconfigured
from prestage.cacher.quantities import read_bytes
from prestage.cacher.transfer.rate import LOOK_S, RateLimit
from prestage.cacher.transfer.schedule import DAYS, Schedule, Window, parse_schedule

M = 10**6
BERLIN = ZoneInfo("Europe/Berlin")
EXAMPLE = "200M, 22:00-06:00=unlimited, sat,sun=1G, tz=Europe/Berlin"


def at(text: str, moment: str, zone: ZoneInfo = BERLIN) -> float | None:
    """The rate at a time on the wall, in November 2026: the 23rd is a Monday."""
    return parse_schedule(text).rate_at(datetime.fromisoformat(moment).replace(tzinfo=zone).timestamp())


@pytest.mark.parametrize(
    ("moment", "rate"),
    [
        ("2026-11-23 12:00", 200 * M),
        ("2026-11-23 21:59", 200 * M),
        ("2026-11-23 22:00", None),
        ("2026-11-24 05:59", None),
        ("2026-11-24 06:00", 200 * M),
        ("2026-11-28 12:00", 1000 * M),
        ("2026-11-28 23:00", 1000 * M),
        ("2026-11-30 00:30", None),
    ],
)
def test_the_last_cap_that_says_something_counts(moment: str, rate: float | None) -> None:
    assert at(EXAMPLE, moment) == rate


def test_a_single_rate_is_a_schedule_and_nothing_is_no_cap() -> None:
    assert parse_schedule("200M") == Schedule(200 * M)
    assert parse_schedule("1.5Gi/s").base_bytes_per_s == 1.5 * 2**30
    assert parse_schedule("Unlimited") == Schedule(None)
    assert at("mon 08:00-18:00=50M, tz=Europe/Berlin", "2026-11-24 12:00") is None


def test_a_window_over_midnight_belongs_to_the_day_it_begins_on() -> None:
    text = "100M, fri 22:00-06:00=1M, tz=Europe/Berlin"
    assert at(text, "2026-11-27 21:00") == 100 * M
    assert at(text, "2026-11-27 23:00") == M
    assert at(text, "2026-11-28 05:00") == M
    assert at(text, "2026-11-28 23:00") == 100 * M
    assert at(text, "2026-11-27 05:00") == 100 * M


def test_spans_of_days_go_round_the_week() -> None:
    days = parse_schedule("sat-mon,wed 09:00-17:00=1M").windows[0].days
    assert {DAYS[day] for day in days} == {"sat", "sun", "mon", "wed"}
    assert parse_schedule("Mon,Wed=1M") == parse_schedule(" mon , wed = 1M ")


def test_an_hour_that_summer_time_skips_or_repeats_does_no_harm() -> None:
    text = "100M, 02:00-03:00=1M, 03:00-04:00=2M, tz=Europe/Berlin"
    spring = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)  # 01:30; the clock goes from 02:00 to 03:00 half an hour later
    schedule = parse_schedule(text)
    rates = [schedule.rate_at((spring + timedelta(minutes=30 * half)).timestamp()) for half in range(4)]
    assert rates == [100 * M, 2 * M, 2 * M, 100 * M]
    autumn = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)  # 02:00, twice
    rates = [schedule.rate_at((autumn + timedelta(minutes=30 * half)).timestamp()) for half in range(6)]
    assert rates == [M, M, M, M, 2 * M, 2 * M]


def test_without_a_zone_the_clock_of_the_system_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    schedule, noon_utc = parse_schedule("1M, 12:00-13:00=2M"), datetime(2026, 11, 23, 12, 30, tzinfo=UTC).timestamp()
    try:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        assert schedule.rate_at(noon_utc) == 2 * M
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        assert schedule.rate_at(noon_utc) == M
    finally:
        monkeypatch.undo()
        time.tzset()


WRONG = {
    "": "no rate",
    "fast": "no rate",
    "0": "above zero",
    "0M, sat=1G": "above zero",
    "200M, 300M": "two rates",
    "sat,sun": "days without a rate",
    "sat, 200M": "days without a rate",
    "=200M": "in front of the =",
    "funday=1M": "no day",
    "mon-=1M": "no day",
    "mon 25:00-26:00=1M": "no such time",
    "22:60-23:00=1M": "no such time",
    "24:00-06:00=1M": "no such time",
    "06:00-06:00=1M": "begins when it ends",
    "22:00-06:00 mon=1M": "no time",
    "22:00-06:00=": "no rate",
    "tz=Mars/Olympus": "no time zone",
    "tz=": "no time zone",
    "tz=../../etc/passwd": "no time zone",
    "tz=Europe": "no time zone",
    "1M, tz=UTC, tz=UTC": "two time zones",
    "1M," * 400: "longer than",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_read_is_said_with_an_example(text: str) -> None:
    with pytest.raises(Misconfigured, match=WRONG[text]) as refused:
        parse_schedule(text)
    assert refused.value.hint is not None
    assert "22:00-06:00=unlimited" in refused.value.hint


_WORDS = st.sampled_from(["mon", "sat-sun", "22:00-06:00", "=", ",", " ", "1M", "unlimited", "tz", "UTC", "-", ":", "/s", "0"])


@given(st.one_of(st.text(max_size=60), st.lists(_WORDS, max_size=12).map("".join)))
def test_any_text_is_a_schedule_or_a_mistake_of_configuration(text: str) -> None:
    try:
        schedule = parse_schedule(text)
    except Misconfigured as exc:
        assert "\n" not in str(exc)
        return
    assert parse_schedule(str(schedule)) == schedule


RATES = st.none() | st.integers(1, 10**12).map(float)
WINDOWS = st.builds(
    Window, st.frozensets(st.integers(0, 6), min_size=1), st.integers(0, 1439), st.integers(0, 1440), RATES
).filter(lambda window: window.since != window.until)


@given(RATES, st.lists(WINDOWS, max_size=5), st.sampled_from([None, BERLIN, ZoneInfo("UTC")]), st.integers(0, 2**32))
def test_a_schedule_reads_back_as_it_was_written(
    rate: float | None, windows: list[Window], zone: ZoneInfo | None, when: int
) -> None:
    schedule = Schedule(rate, tuple(windows), zone)
    again = parse_schedule(str(schedule))
    assert again == schedule
    assert again.rate_at(when) in [rate, *(window.bytes_per_s for window in windows)]


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        assert read_bytes(text) >= 0
    except ValueError as exc:
        assert "is not a size" in str(exc)


@dataclass
class Clocks:
    """Time that the test moves: since the start, and on the wall."""

    now: float = 0.0
    wall: float = 0.0

    def pass_s(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


def limit(rate: float | Schedule | None, clocks: Clocks) -> RateLimit:
    return RateLimit(rate, clock=lambda: clocks.now, wall=lambda: clocks.wall)


def test_claims_wait_for_those_before_them_and_idle_time_is_not_saved() -> None:
    clocks = Clocks()
    rate = limit(100.0, clocks)
    assert [rate.wait_s(rate.claim(50)) for _ in range(3)] == [0.0, 0.5, 1.0]
    clocks.pass_s(60)
    assert [rate.wait_s(rate.claim(50)) for _ in range(3)] == [0.0, 0.5, 1.0]


def test_a_new_rate_counts_for_those_who_wait_already() -> None:
    clocks = Clocks()
    rate = limit(10.0, clocks)
    rate.claim(100)
    waiting = rate.claim(100)
    assert rate.wait_s(waiting) == 10.0
    clocks.pass_s(5)
    rate.set_rate(100.0)
    assert rate.wait_s(waiting) == 0.5
    rate.set_rate(1.0)
    assert rate.wait_s(waiting) == 50.0
    rate.set_rate(None)
    assert (rate.wait_s(waiting), rate.is_off) == (0.0, True)
    rate.set_rate(10.0)
    assert rate.wait_s(rate.claim(100)) == 0.0, "what moved without a cap is not owed"
    assert rate.wait_s(rate.claim(100)) == 10.0


def test_a_limit_follows_its_schedule_within_a_second() -> None:
    assert LOOK_S < 1
    clocks = Clocks(wall=datetime(2026, 11, 23, 21, 59, 59, tzinfo=UTC).timestamp())
    rate = limit(parse_schedule("10, 22:00-06:00=unlimited, 06:00-07:00=1000, tz=UTC"), clocks)
    rate.claim(1000)
    waiting = rate.claim(1000)
    assert (rate.wait_s(waiting), rate.current()) == (100.0, 10.0)
    clocks.pass_s(1)
    assert (rate.wait_s(waiting), rate.current(), rate.is_off) == (0.0, None, False)
    clocks.pass_s(8 * 3600)
    assert rate.current() == 1000.0
    rate.claim(1000)
    assert rate.wait_s(rate.claim(1)) == 1.0
    clocks.pass_s(-3600 * 5)  # somebody sets the clock back: the rate of that time holds, nobody waits for ever
    clocks.now += 3600 * 5 + 1
    assert rate.current() is None


def test_a_thread_that_waits_for_days_goes_on_when_the_cap_is_lifted() -> None:
    rate, leaving, passed = RateLimit(1.0), threading.Event(), threading.Event()
    rate.take(10**6, leaving)

    def wait() -> None:
        rate.take(1, leaving)
        passed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not passed.is_set()
    rate.set_rate(None)
    assert passed.wait(20)
    thread.join()
