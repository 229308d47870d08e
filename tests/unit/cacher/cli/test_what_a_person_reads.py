"""Sizes, durations and their spelling on the command line."""

from __future__ import annotations

import click
import pytest

from prestage.cacher.cli.session import Duration, Size
from prestage.cacher.cli.terminal import human_bytes, human_seconds


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (2.15e9, "2.15 GB"), (9.999e14, "1e+03 TB")],
)
def test_sizes_have_three_digits_and_decimal_units(size_bytes: float, shown: str) -> None:
    assert human_bytes(size_bytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.042, "42 ms"), (0.42, "0.4 s"), (59, "59.0 s"), (75, "1 min 15 s"), (7320, "2 h 2 min")]
)
def test_durations_read_like_speech(seconds: float, shown: str) -> None:
    assert human_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("1000000", 10**6), ("500G", 500 * 10**9), ("1.5Ti", 3 * 2**39), ("10 MB", 10**7), ("4kib", 4096)]
)
def test_sizes_are_read_with_their_units(text: str, size_bytes: int) -> None:
    assert Size().convert(text, None, None) == size_bytes


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604800)])
def test_durations_are_read_with_their_units(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "lots", "-1", "1X", "1e9", "ki"])
def test_what_is_no_size_or_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="500G"):
        Size().convert(text, None, None)
    with pytest.raises(click.BadParameter, match="15m"):
        Duration().convert(text or "soon", None, None)
