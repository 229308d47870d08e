"""Reads of a layer, foretold from its blocks or its files: as containerd makes them, and nothing of damaged ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import Tar

from prestage.images.containerd import tars
from prestage.images.containerd.frames import MAGIC, READ_BYTES, reads_of

BLOCKS = st.lists(st.tuples(st.sampled_from((0, 1, 2)), st.integers(0, 70_000)), min_size=1, max_size=12)
SKIPPABLE = 0x184D2A53


class Buffered:
    """As Go's bufio reads: from what it has, else past it what is as long as its buffer, else a buffer full."""

    def __init__(self, size_bytes: int) -> None:
        self._left, self._has, self._at = size_bytes, 0, 0
        self.ends: list[int] = []

    def read(self, size_bytes: int) -> None:
        while size_bytes and self._left:
            if not self._has:
                got = min(self._left, max(size_bytes, READ_BYTES) if size_bytes >= READ_BYTES else READ_BYTES)
                self._at += got
                self.ends.append(self._at)
                self._has = got
            given = min(self._has, size_bytes)
            self._has, size_bytes, self._left = self._has - given, size_bytes - given, self._left - given


def frame(blocks: Sequence[tuple[int, int]], *, is_checked: bool) -> tuple[bytes, list[int]]:
    """A frame, and what its decoder asks for."""
    data, asked = bytearray(MAGIC + bytes([0x80 | is_checked << 2]) + b"\x50" + bytes(4)), [4, 1, 1, 4]
    for number, (kind, length) in enumerate(blocks):
        data += (length << 3 | kind << 1 | (number == len(blocks) - 1)).to_bytes(3, "little")
        body = 1 if kind == 1 else length
        data += bytes(body)
        asked += [3, body]
    data += bytes(4 * is_checked)
    return bytes(data), [*asked, 4 * is_checked]


def reads(data: bytes) -> list[int]:
    return list(reads_of(len(data), lambda offset, size: data[offset : offset + size]))


@given(st.lists(st.tuples(BLOCKS, st.booleans()), min_size=1, max_size=3), st.integers(0, 70_000))
def test_the_reads_of_a_layer_are_those_of_a_buffered_reader(
    frames: list[tuple[list[tuple[int, int]], bool]], skipped: int
) -> None:
    made = [frame(blocks, is_checked=is_checked) for blocks, is_checked in frames]
    tail = SKIPPABLE.to_bytes(4, "little") + skipped.to_bytes(4, "little") + bytes(skipped)
    data = b"".join(one for one, _ in made) + tail
    buffered = Buffered(len(data))
    for _, asked in made:
        for size in asked:
            buffered.read(size)
    for size in (4, 4, *([8192] * (skipped // 8192)), skipped % 8192):
        buffered.read(size)
    assert reads(data) == buffered.ends


@given(BLOCKS, st.data())
def test_of_a_damaged_layer_reads_are_in_order_and_end_with_it_or_there_are_none(
    blocks: list[tuple[int, int]], data: st.DataObject
) -> None:
    made = bytearray(frame(blocks, is_checked=True)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    del made[data.draw(st.integers(0, len(made))) :]
    found = reads(bytes(made))
    assert found == sorted(set(found))
    assert not found or found[-1] == len(made)


def test_what_is_no_zstd_has_none() -> None:
    assert reads(b"\x1f\x8b" + bytes(100_000)) == []
    assert reads(b"") == []


def tar_reads(data: bytes) -> list[int]:
    return list(tars.reads_of(len(data), lambda offset, size: data[offset : offset + size]))


def test_the_reads_of_a_layer_without_compression_are_headers_files_and_what_fills_their_blocks() -> None:
    made = Tar().folder("d").file("d/a", bytes(70_000)).link("d/b", "a").end()
    assert len(made) == 10_240 * 8
    file = 1024
    data = [file + READ_BYTES, file + 2 * READ_BYTES, file + 70_000, file + 70_144]
    rest = file + 70_144 + 512
    assert tar_reads(made) == [512, 1024, *data, rest, *range(rest + 8192, len(made), 8192), len(made)]


@pytest.mark.parametrize("size", [b"-0000001000", b"+0000000010", b"0000000_001", b"0o000000001", b"00000000008"])
def test_a_tar_whose_sizes_are_no_octal_digits_is_not_followed_and_never_goes_back(size: bytes) -> None:
    made = bytearray(Tar().file("a", bytes(600)).end())
    made[124:135] = size
    assert tar_reads(bytes(made)) == []


@given(st.lists(st.integers(0, 70_000), max_size=5), st.data())
def test_of_a_damaged_tar_reads_are_in_order_and_end_with_it_or_there_are_none(sizes: list[int], data: st.DataObject) -> None:
    tar = Tar()
    for number, size in enumerate(sizes):
        tar.file(f"f{number}", bytes(size))
    made = bytearray(tar.end())
    for _ in range(data.draw(st.integers(0, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    del made[data.draw(st.integers(0, len(made))) :]
    found = tar_reads(bytes(made))
    assert found == sorted(set(found))
    assert not found or found[-1] == len(made)
