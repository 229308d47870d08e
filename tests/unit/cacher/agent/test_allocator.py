"""A program of its own for each: what is said to the allocator counts for the whole process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from prestage.cacher.agent.allocator import ARENAS

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc hoards like this")

_THREADS = """
import ctypes, sys, threading
from prestage.cacher.agent.allocator import bound_allocator
if sys.argv[1] == "bounded":
    assert bound_allocator()
libc = ctypes.CDLL(None)
there = threading.Barrier(17)
kept = []
def work():
    kept.append(bytearray(5000))
    there.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
there.wait()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""
_BUFFERS = """
import sys
from pathlib import Path
from prestage.cacher.agent.allocator import bound_allocator
if sys.argv[1] == "bounded":
    assert bound_allocator()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
for _ in range(3):  # what glibc learns its thresholds from
    large = bytearray(b"x" * (16 << 20))
    del large
before, kept = resident(), []
buffers = []
for _ in range(200):
    buffers.append(bytearray(b"x" * (64 << 10)))
    kept.append(bytearray(600))  # in between: what lies above keeps an arena from shrinking
del buffers
print((resident() - before) >> 10)
"""


def _run(program: str, how: str) -> str:
    return subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True, timeout=60).stdout


def test_threads_share_a_few_arenas_instead_of_getting_one_each() -> None:
    assert _run(_THREADS, "free").count("<heap nr=") > ARENAS, "the machine does not show what this is about"
    assert _run(_THREADS, "bounded").count("<heap nr=") <= ARENAS


def test_buffers_of_the_network_are_given_back_when_they_are_freed() -> None:
    free_kib, bounded_kib = int(_run(_BUFFERS, "free")), int(_run(_BUFFERS, "bounded"))
    assert free_kib > 8_000, "the machine does not show what this is about"
    assert bounded_kib < 2_000
