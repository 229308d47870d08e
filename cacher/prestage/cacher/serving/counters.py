"""What the workers count, in memory that they share with whoever started them: one row a worker, each written by that one only.

cell 0   rate cap in bytes a second over all workers, 0 for none; written by the supervisor
then     a row of 8 cells for each worker: see `Row`
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from enum import IntEnum

_CELL_BYTES = 8
_ROW_CELLS = 8


class Row(IntEnum):
    """The cells of a row."""

    BYTES = 0
    """Of bodies, handed to the kernel."""
    REQUESTS = 1
    REFUSED = 2
    """Answered 401, 429 or 503, or not HTTP."""
    CUT = 3
    """Connections dropped because their reader took nothing."""
    ACTIVE = 4
    """Connections open now."""
    READY = 5
    """1 while the worker accepts."""


@dataclass(frozen=True, slots=True)
class ServingStats:
    """Sums over all workers since the start; `active` is now."""

    bytes: int
    requests: int
    refused: int
    cut: int
    active: int
    workers: int
    """Workers that accept now."""
    restarts: int = 0


class Counters:
    """Shared memory behind a descriptor. Close it."""

    def __init__(self, fd: int, workers: int) -> None:
        self.fd, self.workers = fd, workers
        self._map = mmap.mmap(fd, _size_bytes(workers))
        self._cells = memoryview(self._map).cast("Q")

    @staticmethod
    def create(workers: int) -> Counters:
        """Fresh ones, all zero."""
        fd = os.memfd_create("prestage-serving")
        os.ftruncate(fd, _size_bytes(workers))
        return Counters(fd, workers)

    @property
    def rate_bytes_per_s(self) -> int:
        """The cap over all workers, 0 for none."""
        return self._cells[0]

    @rate_bytes_per_s.setter
    def rate_bytes_per_s(self, rate: int) -> None:
        self._cells[0] = rate

    def add(self, worker: int, row: Row, count: int = 1) -> None:
        """Only the worker itself may."""
        self._cells[_ROW_CELLS * (worker + 1) + row] += count

    def put(self, worker: int, row: Row, value: int) -> None:
        """Only the worker itself may, or the supervisor of one that has ended."""
        self._cells[_ROW_CELLS * (worker + 1) + row] = value

    def get(self, worker: int, row: Row) -> int:
        """One cell."""
        return self._cells[_ROW_CELLS * (worker + 1) + row]

    def column(self, row: Row) -> list[int]:
        """One cell of every worker."""
        return [self.get(worker, row) for worker in range(self.workers)]

    def sums(self, restarts: int) -> ServingStats:
        """Over all workers."""
        cells = {row.name.lower(): sum(self.column(row)) for row in Row if row is not Row.READY}
        return ServingStats(**cells, workers=sum(self.column(Row.READY)), restarts=restarts)

    def close(self) -> None:
        """Idempotent."""
        self._cells.release()
        self._map.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _size_bytes(workers: int) -> int:
    return _CELL_BYTES * _ROW_CELLS * (workers + 1)
