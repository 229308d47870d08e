"""Sizes as people write them: 500G, 1.5Ti, 1000000. Pure."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmgt]?i?)b?")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def read_bytes(text: str) -> int:
    """Bytes of a size with or without a unit: K M G T are powers of 1000, Ki Mi Gi Ti of 1024.

    Raises:
        ValueError: not a size.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None or found.group(2) not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write 500G, 1.5Ti or bytes")
    return int(float(found.group(1)) * _UNITS[found.group(2)])
