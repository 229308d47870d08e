"""Values that are written as text: quantities, durations, cron schedules. Pure.

Each reader raises ValueError with what to write instead; nothing else.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from zoneinfo import ZoneInfo

_QUANTITY = re.compile(
    r"([+-]?)([0-9]{0,32})(?:\.([0-9]{0,32}))?(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]{1,18})?", re.ASCII
)
_SCALES = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_MOST = 2**63 - 1
"""Kubernetes caps there what is more."""
_FAR = 100
"""A power of ten that takes any digits beyond the most, or below one of anything."""
_WRITE_BYTES = "write bytes as 500Gi, 2T or a plain number"
_DURATION = re.compile(r"(?:[0-9]{1,6}(?:ms|s|m|h)){1,4}", re.ASCII)
_PART = re.compile(r"([0-9]+)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def quantity(given: str) -> Fraction:
    """A Kubernetes Quantity, in every form that Kubernetes reads: 500Gi, .5Ti, 2., +1e12, 100m; Gi is 0."""
    found = _QUANTITY.fullmatch(given)
    if not found or not given:
        raise ValueError(f"{given[:40]!r} is no quantity: {_WRITE_BYTES}")
    sign, whole, rest, suffix = found[1], found[2], found[3] or "", found[4] or ""
    number = Fraction(int(f"{sign}0{whole}{rest}"), 10 ** len(rest))
    if suffix in _BINARY:
        scaled = number * _BINARY[suffix]
    else:
        exponent = _SCALES[suffix] if suffix in _SCALES else int(suffix[1:])
        scaled = number * Fraction(10) ** max(-_FAR, min(_FAR, exponent))
    return min(scaled, Fraction(_MOST))


def quantity_bytes(given: int | str) -> int:
    """A Kubernetes Quantity in bytes, rounded up as Kubernetes does."""
    found = given if isinstance(given, int) else math.ceil(quantity(given))
    if found < 0:
        raise ValueError(_WRITE_BYTES)
    return found


def duration_s(given: str) -> float:
    """10h, 1h30m, 150s, 500ms in seconds."""
    if not _DURATION.fullmatch(given):
        raise ValueError(f"{given[:40]!r} is no duration: write it as 10h, 1h30m or 150s")
    return sum(int(count) * _SECONDS[unit] for count, unit in _PART.findall(given))


@dataclass(frozen=True, slots=True)
class Cron:
    """When, as sets of minutes, hours, days of the month, months and weekdays (0: Sunday).

    `any_day`, `any_weekday`: the field was a star. Where neither is, a day matches by either of the two, as cron has it.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("weekday", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)}),
)
_EXAMPLE = 'write five fields, minute hour day month weekday, e.g. "0 8 * * 1-5"'
_LONGEST_MONTH = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}


def cron(given: str) -> Cron:
    """Five fields: numbers, names, lists, ranges, steps; `?` is `*`. A day that no month has (30 February) is refused."""
    words = given.split()
    if len(words) != len(_FIELDS):
        raise ValueError(f"{given[:60]!r} has {len(words)} fields: {_EXAMPLE}")
    sets = [_field(word, *field) for word, field in zip(words, _FIELDS, strict=True)]
    any_day, any_weekday = words[2][0] in "*?", words[4][0] in "*?"
    weekdays = frozenset(day % 7 for day in sets[4])
    if any_weekday and min(sets[2]) > max(_LONGEST_MONTH.get(month, 31) for month in sets[3]):
        raise ValueError(f"{given[:60]!r} names a day that none of its months has")
    return Cron(sets[0], sets[1], sets[2], sets[3], weekdays, any_day, any_weekday)


def _field(word: str, name: str, least: int, most: int, names: dict[str, int]) -> frozenset[int]:
    found = set[int]()
    for part in word.split(","):
        span, slash, step_text = part.partition("/")
        first_text, dash, last_text = span.partition("-")
        if span in ("*", "?"):
            first, last = least, most
        else:
            first = _number(first_text, name, names)
            last = _number(last_text, name, names) if dash else (most if slash else first)
        step = _number(step_text, name, {}) if slash else 1
        if not (least <= first <= last <= most) or step < 1:
            raise ValueError(f"{part[:20]!r} is no {name} from {least} to {most}: {_EXAMPLE}")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(text: str, name: str, names: dict[str, int]) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 4:
        return int(text)
    if text.lower() in names:
        return names[text.lower()]
    raise ValueError(f"{text[:20]!r} is no {name}: {_EXAMPLE}")


def zone(given: str) -> ZoneInfo:
    """A zone of the IANA table that this machine has."""
    try:
        return ZoneInfo(given)
    except (LookupError, ValueError, OSError) as exc:
        raise ValueError(f"{given[:40]!r} is no time zone: write one of the IANA table, e.g. Europe/Berlin or UTC") from exc
