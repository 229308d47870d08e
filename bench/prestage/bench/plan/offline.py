"""What could have been on time: announcements that a solution serves which knows all of them, the link and what pods do.

by link    soonest first on a link of the true rate, what pods waited for before all; room is not asked for
by room    of these, what also finds room: each is fetched as late as the link allows, and has its bytes of the store from then
           until its moment, beside what pods use or wait for and what was promised before it, soonest first
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prestage.bench.plan.simulate import Tally
from prestage.bench.plan.traces import Announcement

IN_TIME_S = 1.0
"""Float arithmetic, and nothing that a person would call late."""
_WHOLE_BYTES = 1.0


@dataclass(slots=True)
class _Job:
    left_bytes: float
    numbers: list[int]


def feasible(said: Sequence[Announcement], tally: Tally, link_bytes_per_s: float) -> set[int]:
    """Announcements that a link of the true rate serves by their moment, soonest first, what pods waited for before them, each
    moving what was missing when it was said. Room is not asked for here."""
    releases = sorted(
        [(at, -1.0, size, -1) for at, size in tally.demand_pulls]
        + [(said[number].said_s, said[number].ready_s, size, number) for number, size in tally.missing_bytes.items()]
    )
    made, now, queue, jobs = set[int](), 0.0, list[tuple[float, int, _Job]](), dict[str, _Job]()
    for place in range(len(releases) + 1):
        until = releases[place][0] if place < len(releases) else float("inf")
        while queue and now < until:
            due, _, job = queue[0]
            took = min(job.left_bytes / link_bytes_per_s, until - now)
            now += took
            job.left_bytes -= took * link_bytes_per_s
            if job.left_bytes > 1.0:
                break
            heapq.heappop(queue)
            made |= {number for number in job.numbers if now <= said[number].ready_s + IN_TIME_S}
        if place == len(releases):
            break
        now = max(now, until)
        _, due, size, number = releases[place]
        app = said[number].app if number >= 0 else f"pull {place}"
        pending = jobs.get(app)
        if pending is not None and pending.left_bytes > 1.0:
            pending.numbers.append(number)
        elif size <= 1.0:
            made |= {number} - {-1}
        else:
            job = jobs[app] = _Job(size, [number] if number >= 0 else [])
            heapq.heappush(queue, (due, place, job))
    return made


@dataclass(slots=True)
class _Stay:
    """In the store from `begins` until `ends`; fetched in the first part of that."""

    number: int
    app: str
    size_bytes: int
    fetch_bytes: float
    begins: float
    ends: float
    said: float


class _Free:
    """Seconds in which a link has nothing to do for pods: how many until a moment, and back."""

    def __init__(self, pulls: Iterable[tuple[float, float]], rate: float) -> None:
        self._edges, self._idle = [0.0], [0.0]
        until = 0.0
        for at, size_bytes in sorted(pulls):
            if at > until:
                self._mark(at, self._idle[-1] + at - until)
                until = at
            until += size_bytes / rate
            self._mark(until, self._idle[-1])

    def _mark(self, moment: float, idle: float) -> None:
        self._edges.append(moment)
        self._idle.append(idle)

    def until(self, moment: float) -> float:
        """Idle seconds from the beginning of the trace."""
        place = bisect.bisect_right(self._edges, moment) - 1
        if place == len(self._edges) - 1:
            return self._idle[place] + moment - self._edges[place]
        busy = self._idle[place + 1] == self._idle[place]
        return self._idle[place] + (0.0 if busy else moment - self._edges[place])

    def start(self, ends: float, seconds: float) -> float:
        """When to begin at the latest, to be through then."""
        wanted = self.until(ends) - seconds
        if wanted < 0:
            return -1.0
        place = bisect.bisect_right(self._idle, wanted) - 1
        return min(ends, self._edges[place] + wanted - self._idle[place])


def served(said: Sequence[Announcement], tally: Tally, *, link_bytes_per_s: float, budget_bytes: float) -> set[int]:
    """By link and by room."""
    by_link = feasible(said, tally, link_bytes_per_s)
    free, stays = _Free(tally.demand_pulls, link_bytes_per_s), list[_Stay]()
    for number in sorted(by_link, key=lambda one: (said[one].ready_s, one)):
        one = said[number]
        missing = tally.missing_bytes.get(number, float(one.size_bytes))
        for fetch_bytes in (missing, float(one.size_bytes)) if missing <= _WHOLE_BYTES else (missing,):
            stay = _Stay(number, one.app, one.size_bytes, fetch_bytes, one.said_s, one.ready_s, one.said_s)
            if (moved := _fitted([*stays, stay], free, link_bytes_per_s)) is not None and _has_room(moved, tally, budget_bytes):
                stays = moved
                break
    return {stay.number for stay in stays}


def _fitted(stays: Sequence[_Stay], free: _Free, rate: float) -> list[_Stay] | None:
    """With the last one's fetch as late as can be, and what it pushes sooner; None: the link is too slow."""
    made, before = list(stays), float("inf")
    for place in range(len(stays) - 1, -1, -1):
        one = stays[place]
        if one.fetch_bytes <= _WHOLE_BYTES:
            continue
        begins = free.start(min(one.ends, before), one.fetch_bytes / rate)
        if begins < one.said - IN_TIME_S:
            return None
        if place < len(stays) - 1 and begins >= one.begins:
            break
        made[place] = _Stay(one.number, one.app, one.size_bytes, one.fetch_bytes, begins, one.ends, one.said)
        before = begins
    return made


def _has_room(stays: Sequence[_Stay], tally: Tally, budget_bytes: float) -> bool:
    """At every moment at which the last one is there, or what it pushed sooner."""
    last = stays[-1]
    since = min(stay.begins for stay in stays if stay.ends > last.begins)
    near = [stay for stay in stays if stay.ends > since]
    first = max(0, bisect.bisect_right(tally.pinned, since, key=lambda pair: pair[0]) - 1)
    until = bisect.bisect_right(tally.pinned, last.ends, key=lambda pair: pair[0])
    moments = {stay.begins for stay in near} | {at for at, _ in tally.pinned[first:until] if at >= since}
    for moment in moments:
        place = bisect.bisect_right(tally.pinned, moment, key=lambda pair: pair[0]) - 1
        there = dict(tally.pinned[place][1]) if place >= 0 else {}
        for stay in near:
            if stay.begins <= moment < stay.ends:
                there[stay.app] = stay.size_bytes
        if sum(there.values()) > budget_bytes:
            return False
    return True
