"""What the last load of this thread did about verification. Knows nothing of files."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What was checked of the bytes behind the tensors that were returned."""

    VERIFIED = "verified"
    """Every chunk that carries the header or a returned tensor matched its sum when it was read."""
    UNVERIFIED = "unverified"
    """No sums were found for the file."""
    OFF = "off"
    """The caller asked for no verification."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One file's load, as far as it has come: `safe_open` checks a tensor's chunks when the tensor is asked for."""

    path: str
    size_bytes: int
    outcome: Outcome
    checked_bytes: int
    """In whole chunks. Each chunk is checked once per opened file."""
    artifact: str | None
    """`sha256:<hex>` as the sums name it; None without sums."""


class _Slot(threading.local):
    report: LoadReport | None = None


_slot = _Slot()


def publish(report: LoadReport) -> None:
    """Make `report` this thread's last."""
    _slot.report = report


def last_report() -> LoadReport | None:
    """What this thread's most recent load, or tensor of a `safe_open`, did; None before the first."""
    return _slot.report
