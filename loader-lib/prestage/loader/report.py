"""What the last load of this thread did: a dict for programs, one line on stderr for people. Knows nothing of files.

prestage: llama 141.1 GB: disk 9.1 s at 15.5 GB/s, 12 % cached, verify 0.4 s, limit=disk
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

QUIET = "PRESTAGE_LOADER_QUIET"
"""Set to anything but 0 or nothing: no line."""

_said: set[str] = set()
_said_lock = threading.Lock()
_SAID_MAX = 1024


class Outcome(Enum):
    """What was checked of the bytes behind the tensors that were returned."""

    VERIFIED = "verified"
    """Every chunk that carries the header or a returned tensor matched its sum when it was read."""
    UNVERIFIED = "unverified"
    """No sums were found, at least for one file."""
    OFF = "off"
    """The caller asked for no verification."""


class Report(Protocol):
    """What can be told of a load."""

    def to_dict(self) -> dict[str, object]:
        """`path`, `bytes`, `verify`, `verified_bytes` and `artifact` at least."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file's load, as far as it has come: `safe_open` checks a tensor's chunks when the tensor is asked for."""

    path: str
    size_bytes: int
    outcome: Outcome
    checked_bytes: int
    """In whole chunks. Each chunk is checked once per opened file."""
    artifact: str | None
    """`sha256:<hex>` as the sums name it; None without sums."""

    def to_dict(self) -> dict[str, object]:
        """For `last_report`."""
        return {
            "path": self.path,
            "bytes": self.size_bytes,
            "verify": self.outcome.value,
            "verified_bytes": self.checked_bytes,
            "artifact": self.artifact,
        }


class _Slot(threading.local):
    report: Report | None = None


_slot = _Slot()


def publish(report: Report) -> None:
    """Make `report` this thread's last."""
    _slot.report = report


def last_report() -> dict[str, object] | None:
    """What this thread's most recent load, or tensor of a `safe_open`, did; None before the first.

    Always `path`, `bytes`, `verify` ("verified", "unverified" or "off"), `verified_bytes` (whole chunks), `artifact` (None
    without sums); of `open_model` also where the time went: docs/loader.md.
    """
    return _slot.report.to_dict() if _slot.report else None


def say(line: str) -> None:
    """On stderr, unless the environment says not to."""
    if os.environ.get(QUIET, "0") in ("", "0"):
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - the one line that this library prints


def say_unverified(path: str) -> None:
    """Log it once per folder: a checkpoint of 200 shards is one fact, not 200."""
    folder = os.path.split(path)[0]
    with _said_lock:
        if folder in _said or len(_said) >= _SAID_MAX:
            return
        _said.add(folder)
    # not at import: 5 ms that a verified load never needs
    import logging

    logging.getLogger("prestage.loader").info("unverified", extra={"path": path, "reason": "no sums"})
