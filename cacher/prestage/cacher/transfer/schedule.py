"""Caps by time of day and day of the week, as people write them. Pure but for the time zones of the system.

    200M, 22:00-06:00=unlimited, sat,sun=1G, tz=Europe/Berlin

    schedule  cap *("," cap)
    cap       rate                          when nothing below says otherwise; once at most
              when "=" rate
              "tz=" Area/City               once at most; the system's time zone without it
    when      days / times / days " " times
    days      day *("," day); day is mon … sun, or a span: mon-fri, sat-mon
    times     HH:MM-HH:MM                   the end is not in it; 22:00-06:00 goes on into the next day
    rate      a size a second (200M, 1.5Gi, 200M/s), or "unlimited"

Of several that say something the last one counts. Without a rate of its own, the rest of the time is unlimited. Times are the
clock on the wall: an hour that a change of daylight saving time skips is not missed, one that comes twice counts twice.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from prestage.cacher.errors import Misconfigured
from prestage.cacher.quantities import read_bytes

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EVERY_DAY = frozenset(range(7))
_DAY_MINUTES = 24 * 60
_MAX_CHARS = 1000
_DAY = re.compile(f"({'|'.join(DAYS)})(?:-({'|'.join(DAYS)}))?")
_TIMES = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
UNLIMITED = "unlimited"


@dataclass(frozen=True, slots=True)
class Window:
    """A cap and when it holds. `days` are those on which it begins, Monday is 0; `until` of at most `since` is the next day's."""

    days: frozenset[int]
    since: int
    """Minutes after midnight."""
    until: int
    bytes_per_s: float | None

    def holds(self, weekday: int, minute: int) -> bool:
        """At this minute of this day."""
        if self.since < self.until:
            return weekday in self.days and self.since <= minute < self.until
        return (weekday in self.days and minute >= self.since) or ((weekday - 1) % 7 in self.days and minute < self.until)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cap for every moment. None as a rate: unlimited."""

    base_bytes_per_s: float | None = None
    windows: tuple[Window, ...] = ()
    zone: zoneinfo.ZoneInfo | None = None

    def rate_at(self, epoch_s: float) -> float | None:
        """Bytes a second at this moment, None: unlimited."""
        local = datetime.fromtimestamp(epoch_s, UTC).astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        for window in reversed(self.windows):
            if window.holds(local.weekday(), minute):
                return window.bytes_per_s
        return self.base_bytes_per_s

    def __str__(self) -> str:
        """As it could have been written; reads back to an equal one."""
        parts = [_shown_rate(self.base_bytes_per_s)]
        parts += [f"{_shown_when(window)}={_shown_rate(window.bytes_per_s)}" for window in self.windows]
        return ", ".join([*parts, f"tz={self.zone.key}"] if self.zone is not None else parts)


def parse_schedule(text: str) -> Schedule:
    """Read a schedule; a single rate is one too.

    Raises:
        Misconfigured: which part cannot be read, and what a right one looks like.
    """
    base: list[float | None] = []
    zones, windows = list[zoneinfo.ZoneInfo](), list[Window]()
    if len(text) > _MAX_CHARS:
        raise _wrong(text[:40] + "…", f"longer than {_MAX_CHARS} characters")
    for when, rate in _caps(text):
        if when == "tz":
            zones.append(_zone(rate))
        elif when:
            windows.append(_window(when, _rate(rate)))
        else:
            base.append(_rate(rate))
    if len(base) > 1:
        raise _wrong(text, "two rates for all the time: say when the second one holds")
    if len(zones) > 1:
        raise _wrong(text, "two time zones")
    return Schedule(base[0] if base else None, tuple(windows), zones[0] if zones else None)


def _caps(text: str) -> Iterator[tuple[str, str]]:
    """(when, rate) of each cap; lists of days, which have commas too, put together again."""
    days = list[str]()
    for part in text.split(","):
        left, equals, right = (word.strip() for word in part.partition("="))
        if equals and not left:
            raise _wrong(part, "nothing in front of the =")
        if not equals and _DAY.fullmatch(left.lower()):
            days.append(left)
        elif not equals and days:
            raise _wrong(",".join([*days, part]), "days without a rate: sat,sun=1G")
        else:
            yield (",".join([*days, left]), right) if equals else ("", left)
            days.clear()
    if days:
        raise _wrong(",".join(days), "days without a rate: sat,sun=1G")


def _window(when: str, rate: float | None) -> Window:
    lower = when.lower()
    *named, last = re.split(r"[\s,]+", lower)
    times = _TIMES.fullmatch(last)
    if times is None:
        return Window(_days([*named, last], when), 0, _DAY_MINUTES, rate)
    hour, minute, end_hour, end_minute = (int(part) for part in times.groups())
    since, until = hour * 60 + minute, end_hour * 60 + end_minute
    if minute > 59 or end_minute > 59 or since >= _DAY_MINUTES or until > _DAY_MINUTES:
        raise _wrong(when, "no such time of day: 00:00 to 24:00")
    if since == until:
        raise _wrong(when, "begins when it ends: for whole days name the days alone")
    return Window(_days(named, when) if named else _EVERY_DAY, since, until, rate)


def _days(words: list[str], when: str) -> frozenset[int]:
    found = set[int]()
    for word in words:
        span = _DAY.fullmatch(word)
        if span is None:
            raise _wrong(when, f"{word!r} is no day (mon … sun, mon-fri) and no time (22:00-06:00)")
        first = DAYS.index(span.group(1))
        last = DAYS.index(span.group(2) or span.group(1))
        found.update((first + step) % 7 for step in range((last - first) % 7 + 1))
    return frozenset(found)


def _rate(text: str) -> float | None:
    if text.lower() == UNLIMITED:
        return None
    try:
        rate = float(read_bytes(text.lower().removesuffix("/s")))
    except ValueError:
        raise _wrong(text, f"no rate: write 200M, 1.5Gi or {UNLIMITED}") from None
    if rate <= 0:
        raise _wrong(text, "a rate must be above zero")
    return rate


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        if _ZONE.fullmatch(name):
            return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise _wrong(f"tz={name}", "no time zone that this system knows (its package is tzdata)")


def _wrong(part: str, why: str) -> Misconfigured:
    shown = "".join(c if c.isprintable() else "?" for c in part.strip())
    return Misconfigured(
        f"the rate {shown!r} cannot be read: {why}", hint="write e.g. 200M, or 200M, 22:00-06:00=unlimited, sat,sun=1G"
    )


def _shown_rate(rate: float | None) -> str:
    return UNLIMITED if rate is None else f"{rate:.0f}"


def _shown_when(window: Window) -> str:
    days = "" if window.days == _EVERY_DAY else ",".join(DAYS[day] for day in sorted(window.days))
    if (window.since, window.until) == (0, _DAY_MINUTES):
        return days or "mon-sun"
    times = f"{window.since // 60:02}:{window.since % 60:02}-{window.until // 60:02}:{window.until % 60:02}"
    return f"{days} {times}".strip()
