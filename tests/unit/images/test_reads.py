"""What is let go from the page cache while a layer is unpacked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prestage.images.containerd.reads import Reads

MIB = 1 << 20


def test_what_was_read_leaves_the_page_cache_and_what_is_ahead_of_the_reader_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, gone = tmp_path / "blob", list[tuple[int, int]]()
    blob.write_bytes(bytes(64))

    def advised(fd: int, offset: int, length: int, advice: int) -> None:
        assert (os.fstat(fd).st_ino, advice) == (blob.stat().st_ino, os.POSIX_FADV_DONTNEED)
        gone.append((offset, offset + length))

    monkeypatch.setattr(os, "posix_fadvise", advised)
    reads = Reads(blob, 100 * MIB, ())
    try:
        for so_far in (MIB, 20 * MIB, 20 * MIB, 21 * MIB, 90 * MIB):
            reads.forget(so_far)
            assert not gone or gone[-1][1] < so_far
    finally:
        reads.close()
    assert [start for start, _ in gone] == [0, *(stop for _, stop in gone[:-1])], "each byte once"
    assert gone[-1][1] > 80 * MIB
