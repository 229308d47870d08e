"""Windows: when something is to be ready, and until when it is needed.

    Again     by cron, for a duration               Once     at one moment, for a duration
    Between   from one schedule to the other        ALWAYS   from now on

At a moment each is `Openings`: the one that is open, and the next one. Windows of one schedule that meet are one: one that lasts
longer than its period is always open, and says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from prestage.api import schedules
from prestage.api.texts import duration_s
from prestage.calendar.moments import Cron, Reading, cron_of

MOST_S = 366 * 86400.0
LEAST_S = 60.0
"""A window of less than a minute is none."""


@dataclass(frozen=True, slots=True)
class Opening:
    """From `begins`, when it is to be ready, to `ends`; math.inf: for good."""

    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class Openings:
    """At one moment."""

    open: Opening | None = None
    next: Opening | None = None
    changes_at: float = math.inf
    """Until then this is so."""
    is_joined: bool = False
    """The windows meet: another begins before one ends."""


@dataclass(frozen=True, slots=True)
class Again:
    """By cron."""

    cron: Cron
    duration_s: float

    def at(self, now: float) -> Openings:
        """See Openings."""
        following = self.cron.after(now)
        last = self.cron.last_until(now, since=now - self.duration_s)
        coming = None if following is None else Opening(following, following + self.duration_s)
        if last is None:
            return Openings(None, coming, math.inf if coming is None else coming.begins)
        ends = last + self.duration_s
        if coming is None or coming.begins > ends:
            return Openings(Opening(last, ends), coming, ends)
        return Openings(Opening(last, coming.ends), coming, coming.begins, is_joined=True)


@dataclass(frozen=True, slots=True)
class Once:
    """At one moment."""

    begins: float
    duration_s: float

    def at(self, now: float) -> Openings:
        """See Openings."""
        whole = Opening(self.begins, self.begins + self.duration_s)
        if now < whole.begins:
            return Openings(None, whole, whole.begins)
        return Openings(whole, None, whole.ends) if now < whole.ends else Openings()


@dataclass(frozen=True, slots=True)
class Always:
    """From the moment that it is looked at."""

    def at(self, now: float) -> Openings:
        """See Openings."""
        return Openings(Opening(now, math.inf))


@dataclass(frozen=True, slots=True)
class Between:
    """From when one schedule fires until the other one does."""

    start: Cron
    end: Cron

    def at(self, now: float) -> Openings:
        """See Openings."""
        last = self.start.last_until(now, since=now - MOST_S)
        ended = self.end.last_until(now, since=now - MOST_S)
        following = self.start.after(now)
        coming = None if following is None else Opening(following, self._end(following))
        if last is None or (ended is not None and ended >= last):
            return Openings(None, coming, math.inf if coming is None else coming.begins)
        ends = self._end(now)
        return Openings(Opening(last, ends), coming, ends if coming is None else min(ends, coming.begins))

    def _end(self, since: float) -> float:
        found = self.end.after(since)
        return math.inf if found is None else found


ALWAYS = Always()
Window = Again | Once | Between | Always


def again(fields: str, time_zone: str | None, duration_s: float, *, reading: Reading = Reading.READY) -> Again:
    """Raises ValueError with what to write instead."""
    return Again(cron_of(fields, time_zone, reading=reading), _bounded_s(duration_s))


def spoken(window: schedules.Window) -> Window:
    """As a StagingSchedule has it. Raises ValueError with what to write instead."""
    if window.ready_schedule is not None:
        return again(window.ready_schedule, window.time_zone, duration_s(window.duration or ""))
    if window.ready_by is not None:
        return Once(float(round(window.ready_by.timestamp())), _bounded_s(duration_s(window.duration or "")))
    return ALWAYS


def _bounded_s(duration_s: float) -> float:
    if duration_s < LEAST_S:
        raise ValueError(f"a window of {duration_s:g} s is too short: write at least 1m")
    if duration_s > MOST_S:
        raise ValueError(f"a window of {duration_s:.0f} s is too long: write at most a year (8784h)")
    return duration_s
