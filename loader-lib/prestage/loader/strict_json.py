"""JSON from somebody who may mean harm: one answer or a ValueError, whatever the bytes. Pure.

Stricter than json.loads: duplicate keys, NaN and Infinity, numbers beyond a double, integers of more than 20 digits, lone
surrogates and nesting deeper than 127 are refused, and nothing here recurses before the nesting is known.
"""

from __future__ import annotations

import json
import re

MAX_DEPTH = 127
"""serde_json, the safetensors library's parser, refuses the 128th level."""
_MAX_DIGITS = 20
"""2**64 - 1 has 20 digits; also keeps int() away from quadratic time."""

_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]+")
_INNERMOST = re.compile(r"\[\]|\{\}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(raw: bytes) -> object:
    """The value that `raw` holds, UTF-8 without byte order mark.

    Raises:
        ValueError: with the reason in words that fit behind "the header is ...". UnicodeDecodeError is one.
    """
    text = raw.decode("utf-8")
    _refuse_depth(text)
    value: object = json.loads(
        text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number
    )
    if _SURROGATE.search(text):
        # a pair is a character, half of one is not: only encoding tells
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _refuse_depth(text: str) -> None:
    """Peel off the innermost brackets until none are left: no recursion, and a handful of passes for honest input."""
    brackets = _NO_BRACKET.sub("", _STRINGS.sub("", text))
    for _ in range(MAX_DEPTH):
        peeled = _INNERMOST.sub("", brackets)
        if peeled == brackets:
            break
        brackets = peeled
    if brackets:
        raise ValueError(f"brackets that do not match or nest deeper than {MAX_DEPTH}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value] # add() is the point
        raise ValueError(f"the key {twice[:100]!r} stands twice")
    return members


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int | float:
    if digits == "-0":
        return -0.0
    if len(digits) > _MAX_DIGITS:
        return _number(digits)
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:40]} is out of range")
    return value
