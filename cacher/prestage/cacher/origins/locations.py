"""Where files really are: final URLs behind redirects and signed URLs that expire, looked up once and shared by threads.

    request() -> location of the file, looked up when absent or about to expire (one lookup at a time for each file)
    judge()   -> the location that *this thread* was given last was refused
    refresh() -> dropped, unless another thread has already replaced it

A transfer's thread calls the three in this order for one range, so that a late answer to an old URL is never held against the
new one. A location refused while young counts; three of them in a row, looked up afresh each time, mean that the server
refuses us and not the age of the URL.
"""

from __future__ import annotations

import re
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

YOUNG_S = 20.0
"""A refusal within so long of the lookup, and before the URL's own end, cannot be put down to age."""
REFUSALS_MAX = 3
_MARGIN_S = 30.0
_AMZ_DATE = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Location:
    """A URL and the headers it wants. `good_until` and `found_at` are monotonic."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    good_until: float = float("inf")
    found_at: float = field(default_factory=time.monotonic)


class Locations:
    """The locations of one origin's files. Thread-safe; lookups of different files run side by side."""

    def __init__(self) -> None:
        self._known: dict[str, Location] = {}
        self._refusals: defaultdict[str, int] = defaultdict(int)
        self._counted: dict[str, Location] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._given = threading.local()

    def get(self, path: str, look_up: Callable[[], Location]) -> Location:
        """The location of `path`. What `look_up` raises goes to this caller; the next one looks up again."""
        with self._lock:
            single = self._locks[path]
        with single:
            found = self._known.get(path)
            if found is None or found.good_until <= time.monotonic():
                found = look_up()
                with self._lock:
                    self._known[path] = found
        self._given.last = (path, found)
        return found

    def put(self, path: str, location: Location) -> None:
        """What `resolve` found on its way."""
        with self._lock:
            self._known[path] = location

    def refused(self, path: str) -> bool:
        """This thread's last location of `path` was refused. True: a fresh one would be as well."""
        location = self.last(path)
        with self._lock:
            if location is not None and self._counted.get(path) is not location:
                self._counted[path] = location
                now = time.monotonic()
                is_young = now < min(location.good_until, location.found_at + YOUNG_S)
                self._refusals[path] = self._refusals[path] + 1 if is_young else 0
            return self._refusals[path] >= REFUSALS_MAX

    def drop(self, path: str) -> None:
        """Forget this thread's last location of `path`; a newer one stays."""
        location = self.last(path)
        with self._lock:
            if location is None or self._known.get(path) is location:
                self._known.pop(path, None)

    def last(self, path: str) -> Location | None:
        """What this thread was given last, None if that was another file's."""
        given: tuple[str, Location] | None = getattr(self._given, "last", None)
        return given[1] if given is not None and given[0] == path else None


def lifetime_s(url: str, server_now_s: float) -> float | None:
    """How long a signed URL stays good, by what it says itself; None when it says nothing.

    Known: `X-Amz-Date` + `X-Amz-Expires` (S3, R2, MinIO; GCS with X-Goog-), `Expires` as epoch seconds (CloudFront, GCS V2),
    `se` (Azure). `server_now_s` is the Date of the answer that carried the URL: its clock is the one that counts.
    """
    query = {name.lower(): value for name, value in urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query)}
    ends: float | None = None
    for vendor in ("x-amz", "x-goog"):
        began = _moment(query.get(f"{vendor}-date", ""), _AMZ_DATE)
        lasts = query.get(f"{vendor}-expires", "")
        if began is not None and re.fullmatch(r"[0-9]{1,9}", lasts):
            ends = began + int(lasts)
    if ends is None and re.fullmatch(r"[0-9]{9,11}(\.[0-9]+)?", query.get("expires", "")):
        ends = float(query["expires"])
    if ends is None:
        ends = _moment(query.get("se", ""), "%Y-%m-%dT%H:%M:%SZ")
    return None if ends is None else ends - server_now_s


def good_for_s(lifetime: float) -> float:
    """How long to hand a URL out: less a margin in which a request may still be on its way."""
    return max(0.0, lifetime - min(_MARGIN_S, lifetime * 0.2))


def _moment(text: str, layout: str) -> float | None:
    try:
        return datetime.strptime(text, layout).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
