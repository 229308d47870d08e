"""Where each read of a zstd layer ends, as containerd's decoder reads: by the sizes of its blocks, which stand before them. Pure.

    decoder: block header 3 bytes, block as long as that says ─▶ a buffer of 32 KiB: what is as long as it or longer goes past it

RFC 8878, 3.1.1. What cannot be read as zstd has no reads: whoever asks takes those of any other layer.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

READ_BYTES = 32 << 10
"""Of containerd's buffer before its decoders, in every version since 1.6."""
BLOCKS_MAX = 1_000_000
"""Of at most 128 KiB, unpacked: such a layer unpacks to 100 GB, or was made to be long to look at."""
MAGIC = 0xFD2FB528.to_bytes(4, "little")
_SKIPPED = 0x184D2A50
_RLE, _RESERVED = 1, 3
_WORD = 4

At = Callable[[int, int], bytes]
"""Offset and size to bytes: fewer at the end."""


class _Reader:
    """What was asked for, and the reads that it took."""

    def __init__(self, size_bytes: int) -> None:
        self._size, self._read, self.at = size_bytes, 0, 0
        self.ends = array("Q")

    def take(self, size_bytes: int) -> None:
        """The decoder asks for so many at once."""
        self.at = min(self.at + size_bytes, self._size)
        if self._read < self.at:
            self._reads(max(self.at - self._read, READ_BYTES))

    def skip(self, size_bytes: int) -> None:
        """It asks for them little by little."""
        self.at = min(self.at + size_bytes, self._size)
        while self._read < self.at:
            self._reads(READ_BYTES)

    def _reads(self, size_bytes: int) -> None:
        self._read = min(self._read + size_bytes, self._size)
        self.ends.append(self._read)


def reads_of(size_bytes: int, at: At) -> array[int]:
    """The offset at which each read ends, in order; empty: it is not zstd, or not to be followed."""
    reader, blocks = _Reader(size_bytes), 0
    while reader.at < size_bytes and blocks < BLOCKS_MAX:
        head, blocks = at(reader.at, 2 * _WORD), blocks + 1
        if head[:_WORD] == MAGIC and len(head) > _WORD:
            if (found := _frame(reader, head[_WORD], at, size_bytes, BLOCKS_MAX - blocks)) is None:
                return array("Q")
            blocks += found
        elif int.from_bytes(head[:_WORD], "little") & ~0xF == _SKIPPED:
            reader.take(2 * _WORD)
            reader.skip(int.from_bytes(head[_WORD:], "little"))
        else:
            return array("Q")
    return reader.ends if reader.at == size_bytes else array("Q")


def _frame(reader: _Reader, descriptor: int, at: At, size_bytes: int, most: int) -> int | None:
    """Read over one frame; how many blocks it had, None: it is not to be followed."""
    reader.take(_header_bytes(descriptor))
    for number in range(1, most + 1):
        if reader.at >= size_bytes:
            return None
        word = int.from_bytes(at(reader.at, 3), "little")
        is_last, kind, length = bool(word & 1), word >> 1 & 3, word >> 3
        if kind == _RESERVED:
            return None
        reader.take(3)
        reader.take(1 if kind == _RLE else length)
        if is_last:
            reader.take(_WORD if descriptor & 4 else 0)
            return number
    return None


def _header_bytes(descriptor: int) -> int:
    """Magic, descriptor, window, dictionary's ID, content's size."""
    is_single = descriptor >> 5 & 1
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content = (is_single, 2, 4, 8)[descriptor >> 6]
    return _WORD + 1 + (1 - is_single) + dictionary + content
