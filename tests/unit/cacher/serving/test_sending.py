"""Bytes into a socket, from the page cache and from the disk."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prestage.cacher.serving.sending import STEP_BYTES, is_resident, send_cold_step, send_step

SIZE = STEP_BYTES + 4097


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """On the disk and in the page cache."""
    data = os.urandom(SIZE)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, data)
    os.fsync(fd)
    yield fd, data
    os.close(fd)


def drop(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_was_dropped_from_the_page_cache_is_not_resident(file: tuple[int, bytes]) -> None:
    fd, data = file
    assert is_resident(fd, SIZE - 1)
    drop(fd)
    if is_resident(fd, SIZE - 1):
        pytest.skip("this file system keeps its pages: tmpfs")
    assert os.pread(fd, SIZE, 0) == data
    assert is_resident(fd, SIZE - 1)


@pytest.mark.parametrize("cold", [False, True])
def test_every_byte_goes_once_and_in_order(file: tuple[int, bytes], cold: bool) -> None:
    fd, data = file
    left, right = socket.socketpair()
    left.setblocking(False)
    taken, at = b"", 0
    with left, right:
        while at < SIZE:
            if cold:
                drop(fd)
                sent = send_cold_step(left.fileno(), fd, at, SIZE - at, SIZE)
            else:
                sent = send_step(left.fileno(), fd, at, SIZE - at)
            at += sent or 0
            while len(taken) < at:
                taken += right.recv(1 << 20)
    assert taken == data


def test_a_full_socket_says_so_and_a_short_file_too(file: tuple[int, bytes]) -> None:
    fd, _ = file
    left, right = socket.socketpair()
    left.setblocking(False)
    with left, right:
        assert send_step(left.fileno(), fd, SIZE, 10) == 0
        while send_step(left.fileno(), fd, 0, SIZE) is not None:
            pass
        right.close()
        with pytest.raises(BrokenPipeError):
            send_step(left.fileno(), fd, 0, SIZE)
