"""Where each read of a layer that is not compressed ends: no buffer is before that, containerd's tar reader asks itself. Pure.

    header 512 ─▶ the file, 32 KiB at once ─▶ what fills its last block ─▶ the next … an empty one ─▶ the rest, 8 KiB at once

What cannot be read as tar has no reads. Extended headers count as files: they are read a little differently, and are short.
"""

from __future__ import annotations

from array import array

from prestage.images.containerd.frames import READ_BYTES, At

ENTRIES_MAX = 2_000_000
_BLOCK, _DRAINED = 512, 8 << 10
_SIZE, _TYPE = slice(124, 136), 156
_WITHOUT_BYTES = b"123456"
"""Links, devices, folders, pipes: whatever they say of their size."""


def reads_of(size_bytes: int, at: At) -> array[int]:
    """The offset at which each read ends, in order; empty: it is no tar, or not to be followed. `at`: as of frames.py."""
    ends, offset = array("Q"), 0
    for _ in range(ENTRIES_MAX):
        header = at(offset, _BLOCK)
        if len(header) < _BLOCK or not header.rstrip(b"\0"):
            _until(ends, offset, size_bytes, _DRAINED)
            return ends
        length = _number(header[_SIZE])
        if length is None:
            return array("Q")
        length = 0 if header[_TYPE] in _WITHOUT_BYTES else length
        offset += _BLOCK
        if offset + length > size_bytes:
            return array("Q")
        ends.append(offset)
        _until(ends, offset, offset + length, READ_BYTES)
        offset += length
        if padding := -length % _BLOCK:
            offset += padding
            ends.append(min(offset, size_bytes))
    return array("Q")


def _until(ends: array[int], start: int, stop: int, step: int) -> None:
    ends.extend(range(start + step, stop, step))
    if stop > start:
        ends.append(stop)


def _number(field: bytes) -> int | None:
    """Octal, or binary after a set bit."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ~(0xFF << 88)
    digits = field.strip(b" \0") or b"0"
    return int(digits, 8) if not digits.strip(b"01234567") else None
