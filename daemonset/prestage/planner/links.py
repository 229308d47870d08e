"""A node's link as it will be: its measured rate, at times less. How long bytes take on it, forwards and back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from prestage.planner.nodes import RateWindow

_SLACK_S = 1e-6
"""What seconds since the epoch are rounded to is a quarter of it. Without it the last byte of a transfer that fits exactly would
wait for the other side of a window in which nothing goes."""


class Link:
    """`rate_bytes_per_s`: what nine of ten stages beat; above 0."""

    __slots__ = ("_edges", "_rates", "_usual")

    def __init__(self, rate_bytes_per_s: float, windows: Iterable[RateWindow] = ()) -> None:
        self._usual = rate_bytes_per_s
        windows = [one for one in windows if one.ends > one.begins]
        self._edges = sorted({edge for one in windows for edge in (one.begins, one.ends)})
        self._rates = list[float]()
        for begins in self._edges[:-1]:
            limits = [max(0.0, one.rate_bytes_per_s) for one in windows if one.begins <= begins < one.ends]
            self._rates.append(min([rate_bytes_per_s, *limits]))

    @property
    def most_bytes_per_s(self) -> float:
        """It is never faster."""
        return self._usual

    def rate_at(self, moment: float) -> float:
        """At that moment."""
        for place, rate in enumerate(self._rates):
            if self._edges[place] <= moment < self._edges[place + 1]:
                return rate
        return self._usual

    def ends(self, starts: float, size_bytes: float) -> float:
        """When bytes that begin then are through."""
        left, at = size_bytes, starts
        for place, rate in enumerate(self._rates):
            for until, speed in ((self._edges[place], self._usual), (self._edges[place + 1], rate)):
                if until <= at:
                    continue
                if left <= (until - at + _SLACK_S) * speed:
                    return min(until, at + (left / speed if left else 0.0))
                left -= (until - at) * speed
                at = until
        return at + left / self._usual

    def starts(self, ends: float, size_bytes: float) -> float:
        """When bytes have to begin that are to be through then."""
        left, at = size_bytes, ends
        for place in range(len(self._rates) - 1, -1, -1):
            for since, speed in ((self._edges[place + 1], self._usual), (self._edges[place], self._rates[place])):
                if since >= at:
                    continue
                if left <= (at - since + _SLACK_S) * speed:
                    return max(since, at - (left / speed if left else 0.0))
                left -= (at - since) * speed
                at = since
        return at - left / self._usual if self._usual > 0 else -math.inf

    def carries(self, starts: float, ends: float) -> float:
        """How many bytes go through between two moments."""
        if ends <= starts:
            return 0.0
        edges = [starts, *(edge for edge in self._edges if starts < edge < ends), ends]
        return sum(self.rate_at(first) * (last - first) for first, last in itertools.pairwise(edges))
