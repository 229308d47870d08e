"""Signed URLs: how long they stay good, who looks them up, and when a refusal is final."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Denied
from prestage.cacher.origins import locations
from prestage.cacher.origins.locations import REFUSALS_MAX, Location, Locations, good_for_s, lifetime_s

NOW_S = 1_790_000_000.0


class Lookups:
    """Counts how often a location is looked up; each has a URL of its own."""

    def __init__(self, good_for: float = float("inf"), age_s: float = 0.0) -> None:
        self.count = 0
        self.good_for, self.age_s = good_for, age_s
        self._lock = threading.Lock()

    def __call__(self) -> Location:
        with self._lock:
            self.count += 1
        now = time.monotonic()
        return Location(f"https://cdn/{self.count}", {}, now + self.good_for, now - self.age_s)


def test_a_location_is_looked_up_once_however_many_threads_ask() -> None:
    known, lookup = Locations(), Lookups()

    def slow() -> Location:
        time.sleep(0.05)
        return lookup()

    threads = [threading.Thread(target=known.get, args=("f", slow)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lookup.count == 1
    assert known.get("g", lookup).url == "https://cdn/2"


def test_what_has_run_out_is_looked_up_again() -> None:
    known, lookup = Locations(), Lookups(good_for=0.0)
    known.get("f", lookup)
    known.get("f", lookup)
    assert lookup.count == 2


def test_a_failed_lookup_is_the_failure_of_its_caller_only() -> None:
    known, lookup = Locations(), Lookups()

    def refused() -> Location:
        raise Denied("no")

    with pytest.raises(Denied):
        known.get("f", refused)
    assert known.get("f", lookup).url == "https://cdn/1"


def test_a_refused_location_is_replaced_and_the_third_fresh_one_refused_is_the_end() -> None:
    known, lookup = Locations(), Lookups()
    verdicts = []
    for _ in range(REFUSALS_MAX):
        known.get("f", lookup)
        verdicts.append(known.refused("f"))
        known.drop("f")
    assert verdicts == [False] * (REFUSALS_MAX - 1) + [True]
    assert lookup.count == REFUSALS_MAX


def test_a_location_that_died_of_age_is_held_against_nobody() -> None:
    known, lookup = Locations(), Lookups(age_s=locations.YOUNG_S + 1)
    for _ in range(REFUSALS_MAX + 3):
        known.get("f", lookup)
        assert not known.refused("f")
        known.drop("f")


def test_a_location_past_its_own_end_is_held_against_nobody() -> None:
    known, lookup = Locations(), Lookups(good_for=-1.0)
    for _ in range(REFUSALS_MAX + 3):
        known.get("f", lookup)
        assert not known.refused("f")


def test_late_refusals_of_one_old_location_count_once_and_leave_the_new_one_alone() -> None:
    known, lookup = Locations(), Lookups()
    barrier = threading.Barrier(6)
    verdicts: list[bool] = []

    def transfer() -> None:
        known.get("f", lookup)
        barrier.wait()
        verdicts.append(known.refused("f"))
        known.drop("f")
        known.get("f", lookup)

    threads = [threading.Thread(target=transfer) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(verdicts)
    assert lookup.count == 2
    assert known.get("f", lookup).url == "https://cdn/2"


LIFETIMES = {
    "https://b.s3.amazonaws.com/k?X-Amz-Date=20260921T144000Z&X-Amz-Expires=900&X-Amz-Signature=0": 1_790_001_600 + 900 - NOW_S,
    "https://cdn/repos/x?Expires=1790000100&Signature=a": 100.0,
    "https://a.blob.core.windows.net/c/b?se=2026-09-21T14%3A40%3A00Z&sig=x": 1_790_001_600 - NOW_S,
    "https://h/k?X-Goog-Date=20260921T144000Z&X-Goog-Expires=60": 1_790_001_600 + 60 - NOW_S,
    "https://h/k": None,
    "https://h/k?Expires=tomorrow&X-Amz-Date=x&X-Amz-Expires=y&se=z": None,
    "https://h/k?Expires=12": None,
}


@pytest.mark.parametrize("url", LIFETIMES)
def test_a_signed_url_says_how_long_it_lives(url: str) -> None:
    assert lifetime_s(url, NOW_S) == LIFETIMES[url]


@given(st.floats(-1e6, 1e6))
def test_a_url_is_handed_out_for_less_than_it_lives(lifetime: float) -> None:
    assert 0 <= good_for_s(lifetime) <= max(0.0, lifetime)
    if lifetime > 200:
        assert good_for_s(lifetime) == lifetime - 30


@given(st.text(alphabet="abc%?&=:/.0123456789XAmzDatexpirs-", max_size=120))
def test_no_query_makes_it_fail(query: str) -> None:
    lifetime = lifetime_s(f"https://h/?{query}", NOW_S)
    assert lifetime is None or isinstance(lifetime, float)
