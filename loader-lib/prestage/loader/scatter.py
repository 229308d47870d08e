"""Which bytes of a range of a file go where in a part's result. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prestage.loader.plan import Part


@dataclass(frozen=True, slots=True)
class Rows:
    """`rows` times `width` bytes: in the file `stride` apart from `offset` on, in the result back to back with pitch `pitch`."""

    target: int
    """Offset in the result."""
    offset: int
    """In the file."""
    width: int
    rows: int
    pitch: int
    stride: int


def rows(part: Part, start: int, stop: int) -> Iterator[Rows]:
    """What [start, stop) of the file holds of the part, in at most three requests: a cut run, whole runs, a cut run."""
    low, high = max(start, part.start), min(stop, part.stop)
    while low < high:
        run, inside = divmod(low - part.start, part.stride_bytes) if part.runs > 1 else (0, low - part.start)
        first = part.start + run * part.stride_bytes
        if inside >= part.run_bytes:
            low = first + part.stride_bytes
            continue
        target = run * part.run_bytes + inside
        whole = (high - first + part.stride_bytes - part.run_bytes) // part.stride_bytes if part.runs > 1 and not inside else 0
        if whole > 1:
            yield Rows(target, low, part.run_bytes, whole, part.run_bytes, part.stride_bytes)
            low = first + whole * part.stride_bytes
        else:
            width = min(part.run_bytes - inside, high - low)
            yield Rows(target, low, width, 1, width, width)
            low += width
