"""Sizes and times as people write them (500G, 1.5Ti, 1000000) and read them (1.23 MB, 42 ms). Pure."""

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


def human_bytes(size_bytes: float) -> str:
    """1234567 -> 1.23 MB: decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size_bytes < 999.5 or unit == "TB":
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return ""


def human_seconds(seconds: float) -> str:
    """0.0004 -> 0.4 ms, 0.042 -> 42 ms, 0.42 -> 0.4 s, 75 -> 1 min 15 s."""
    if seconds < 0.0095:
        return f"{seconds * 1000:.1g} ms"
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
