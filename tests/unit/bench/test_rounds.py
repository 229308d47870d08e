"""Order, ratios and verdicts: pure."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.bench.rounds import FOREIGN_CORES_MAX, judge, median_interval, ratios, schedule, summarize


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True), st.integers(1, 8), st.integers())
def test_every_round_runs_every_variant_once(variants: list[str], rounds: int, seed: int) -> None:
    order = schedule(variants, rounds, seed)
    assert [number for number, _ in order] == sorted(list(range(rounds)) * len(variants))
    for number in range(rounds):
        assert sorted(name for at, name in order if at == number) == sorted(variants)


def test_the_order_differs_between_rounds_and_follows_from_the_seed() -> None:
    order = schedule("abcdef", 10, seed=7)
    assert order == schedule("abcdef", 10, seed=7)
    assert len({tuple(name for at, name in order if at == number) for number in range(10)}) > 1


def test_a_summary_keeps_the_order_of_its_values() -> None:
    summary = summarize([3.0, 1.0, 2.0])
    assert (summary.values, summary.median, summary.low, summary.high) == ((3.0, 1.0, 2.0), 2.0, 1.0, 3.0)
    assert summary.spread == pytest.approx(1.0)


def test_ratios_are_taken_pair_by_pair_and_not_between_medians() -> None:
    drifting = ratios({0: 10.0, 1: 20.0, 2: 40.0}, {0: 1.0, 1: 2.0, 2: 4.0})
    assert drifting is not None
    assert drifting.values == (10.0, 10.0, 10.0)


def test_a_round_that_lacks_one_side_gives_no_ratio() -> None:
    partial = ratios({0: 10.0, 2: 30.0}, {1: 1.0, 2: 3.0})
    assert partial is not None
    assert partial.values == (10.0,)
    assert ratios({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("rounds", "low", "high", "confidence"),
    [(1, 1, 1, 0.0), (2, 1, 2, 0.5), (6, 1, 6, 0.9688), (8, 1, 8, 0.9922), (9, 2, 8, 0.9609), (20, 6, 15, 0.9586)],
)
def test_the_interval_of_a_median_is_the_sign_tests(rounds: int, low: int, high: int, confidence: float) -> None:
    """Against the tables of the sign test."""
    found = median_interval([float(value) for value in range(rounds, 0, -1)])
    assert (found.low, found.high, round(found.confidence, 4)) == (low, high, confidence)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    random_ = random.Random(5)
    held = [median_interval([random_.expovariate(1) for _ in range(9)]) for _ in range(2000)]
    share = sum(found.low <= math.log(2) <= found.high for found in held) / len(held)
    assert share == pytest.approx(held[0].confidence, abs=0.02)


def test_a_clear_ratio_on_a_quiet_machine_may_be_quoted() -> None:
    assert not judge(summarize([9.0, 10.0, 11.0]), [0.1] * 6).noisy


@pytest.mark.parametrize(
    ("values", "foreign", "why"),
    [
        ([10.0], [0.0, 0.0], "one round only"),
        ([0.9, 1.1, 1.2], [0.0] * 6, "disagree which is faster"),
        ([2.0, 4.0, 9.0], [0.0] * 6, "spreads over"),
        ([9.0, 10.0, 11.0], [FOREIGN_CORES_MAX + 0.1] * 3 + [0.0] * 3, "other processes used"),
    ],
)
def test_a_noisy_measurement_says_why(values: list[float], foreign: list[float], why: str) -> None:
    verdict = judge(summarize(values), foreign)
    assert verdict.noisy
    assert any(why in reason for reason in verdict.reasons)
