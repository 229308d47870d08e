"""When a cron schedule fires, in a zone of the IANA table.

Two readings of the hours that a change of clocks skips or has twice:

    READY      as Debian's cron: a fixed hour that is skipped fires when the clocks jump, one that comes twice fires once;
               schedules of every hour or every few minutes go by real time
    CRON_JOB   as the controller of Kubernetes' CronJobs: an hour that is skipped does not fire, one that comes twice fires twice

Both are run against what they imitate in the tests.
"""

from __future__ import annotations

import datetime
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from prestage.api.texts import cron, zone

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""What CronJobs take beside five fields. `@every` goes by the last run, which nobody can foretell."""
_JUMP = datetime.timedelta(hours=3)
"""More than any change of clocks goes back."""
_FIRST = datetime.datetime(1971, 1, 1, tzinfo=datetime.UTC).timestamp()
_LAST = datetime.datetime(9000, 1, 1, tzinfo=datetime.UTC).timestamp()


class Reading(StrEnum):
    """See the module."""

    READY = "Ready"
    CRON_JOB = "CronJob"


@dataclass(frozen=True, slots=True)
class Cron:
    """One schedule. Made by `cron_of`."""

    fields: str
    zone: ZoneInfo
    reading: Reading = Reading.READY

    def after(self, moment: float) -> float | None:
        """The first time that it fires later than `moment`. None: not within fifty years."""
        return next(self.all_after(moment), None)

    def all_after(self, moment: float) -> Iterator[float]:
        """All of them, in order."""
        moment = min(max(moment, _FIRST), _LAST)
        if self.reading is Reading.CRON_JOB:
            return self._by_the_wall(moment)
        return self._by_debian(moment)

    def last_until(self, moment: float, *, since: float) -> float | None:
        """The last time that it fired in (since, moment]. None: it did not."""
        if moment <= since:
            return None
        found = self._before(moment)
        return found if found is not None and found > since else None

    def _before(self, moment: float) -> float | None:
        """Backwards to a moment before it, then forwards: what a library says of clocks that change is asked in one
        direction only."""
        moment = min(max(moment, _FIRST), _LAST)
        start = datetime.datetime.fromtimestamp(moment, self.zone).replace(tzinfo=None)
        earlier = CronSim(self.fields, start - _JUMP + datetime.timedelta(seconds=1), reverse=True)
        wall = next(earlier, None)
        since = _FIRST if wall is None else wall.replace(tzinfo=self.zone).timestamp() - _JUMP.total_seconds()
        found: float | None = None
        for fired in self.all_after(since):
            if fired > moment:
                break
            found = fired
        return found

    def _by_debian(self, moment: float) -> Iterator[float]:
        start = datetime.datetime.fromtimestamp(moment, self.zone)
        last = moment
        # A schedule of fixed hours is stepped by the wall clock: begun in an hour that comes twice, its first hit may be past.
        for seen in CronSim(self.fields, start):
            fired = seen.timestamp()
            if fired > last:
                last = fired
                yield fired

    def _by_the_wall(self, moment: float) -> Iterator[float]:
        """Walls in their order; of one that comes twice the second moment waits until those between are said."""
        start = datetime.datetime.fromtimestamp(moment, self.zone).replace(tzinfo=None) - _JUMP
        pending: list[float] = []
        for wall in CronSim(self.fields, start):
            found = moments_of(wall, self.zone)
            bound = found[0] if found else wall.replace(tzinfo=self.zone).timestamp()
            while pending and pending[0] <= bound:
                fired = heapq.heappop(pending)
                if fired > moment:
                    yield fired
            for one in found:
                heapq.heappush(pending, one)
        yield from sorted(one for one in pending if one > moment)


def cron_of(fields: str, time_zone: str | None = None, *, reading: Reading = Reading.READY) -> Cron:
    """Checked.

    Raises:
        ValueError: no schedule, one that never fires, or no zone; with what to write instead.
    """
    said = fields.strip()
    if reading is Reading.CRON_JOB:
        if said.lower().startswith("@every"):
            raise ValueError("@every goes by the last run: write five fields, so that the next one is known beforehand")
        said = _MACROS.get(said.lower(), said)
    cron(said)
    made = Cron(_plain(said, reading), zone(time_zone or "UTC"), reading)
    try:
        CronSim(made.fields, datetime.datetime(2000, 1, 1))  # noqa: DTZ001  a wall clock, of no zone
    except CronSimError as exc:
        raise ValueError(f"{fields[:60]!r} never fires: {exc}") from exc
    return made


def moments_of(wall: datetime.datetime, zone: ZoneInfo) -> list[float]:
    """When a wall clock of that zone shows `wall`: once, twice, or never."""
    found = list[float]()
    for fold in (0, 1):
        moment = wall.replace(tzinfo=zone, fold=fold).timestamp()
        shown = datetime.datetime.fromtimestamp(moment, zone).replace(tzinfo=None)
        if shown == wall and moment not in found:
            found.append(moment)
    return found


def _plain(said: str, reading: Reading) -> str:
    """In the library's own words: `?` is a star; to the controller of CronJobs `*/2` is no star, so that of such a day and
    weekday either is enough."""
    words = [word.replace("?", "*") for word in said.split()]
    if reading is Reading.CRON_JOB:
        for place, span in ((2, "1-31"), (4, "0-6")):
            head, slash, step = words[place].partition("/")
            if head == "*" and slash and step != "1":
                words[place] = f"{span}/{step}"
    return " ".join(words)
