"""What a loader needs of an accelerator. Three implementations pass one suite (tests/contract/loader/test_drivers.py): host
memory (`host.py`), the CUDA driver (`cuda.py`), and the driver's client on a fake library that completes copies late.

Addresses are plain integers. Calls that take a `stream` return before the copy ran; its source must stay as it is until an event
recorded behind it has been waited for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

ALIGN_BYTES = 512
"""Of device memory for a tensor: what a framework may expect (JAX copies below 64)."""


class Driver(Protocol):
    """One device. Thread-safe; every thread attaches before it calls anything else."""

    @property
    def device(self) -> tuple[int, int]:
        """(type, index) as DLPack numbers them: (1, 0) host, (2, n) CUDA."""

    @property
    def reads_page_cache(self) -> bool:
        """Whether `register` can be tried on a read-only file map."""

    def attach(self) -> None:
        """Make the device current for the calling thread, for good: one of our own. Cheap when it already is."""

    def attached(self) -> AbstractContextManager[None]:
        """The same for a caller's thread in a `with` block, after which it is as before. Blocks may lie in one another."""

    def free_bytes(self) -> int:
        """Device memory that is not taken."""

    def allocate(self, size_bytes: int) -> int:
        """Device memory, aligned to ALIGN_BYTES, undefined content. Raises: DeviceError (2: out of memory)."""

    def free(self, address: int) -> None:
        """Of `allocate`, once; nothing may be copying into it."""

    def pin(self, size_bytes: int) -> int:
        """Page-aligned host memory that the copy engine reads at full speed. Slow to get, 2-5 GB/s: little of it, and used again.

        Raises: DeviceError.
        """

    def unpin(self, address: int) -> None:
        """Of `pin`, once; nothing may be copying from it."""

    def register(self, address: int, size_bytes: int) -> bool:
        """Let the copy engine read whole pages of a mapping, read only. False: refused, copy through pinned memory instead."""

    def unregister(self, address: int) -> None:
        """Of `register`, once; nothing may be copying from it."""

    def stream(self) -> int:
        """An order of copies of its own."""

    def end_stream(self, stream: int) -> None:
        """After its copies."""

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Host to device."""

    def copy_rows(
        self, target: int, source: int, *, width: int, rows: int, target_pitch: int, source_pitch: int, stream: int
    ) -> None:
        """Host to device: `rows` times `width` bytes, the given pitches apart."""

    def event(self) -> int:
        """A mark in a stream; counts as reached until it is recorded."""

    def end_event(self, event: int) -> None:
        """Once."""

    def record(self, event: int, stream: int) -> None:
        """Behind everything that was put into the stream so far."""

    def is_reached(self, event: int) -> bool:
        """Whether `wait` would return at once. Raises: as `wait`."""

    def wait(self, event: int) -> None:
        """Return when the event is reached. Releases the GIL. Raises: DeviceError: also for a copy that failed before."""

    def wait_stream(self, stream: int) -> None:
        """Return when everything in the stream is done. Raises: as `wait`."""

    def read_back(self, address: int, size_bytes: int) -> bytes:
        """Device to host, at once, in no order with any stream: for probes and tests."""
