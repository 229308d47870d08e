"""One sentence of an answer, and how much it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """OK: as it should be. WAIT: it passes by itself. ACT: somebody has to do something. NOTE: worth knowing."""

    OK = "ok"
    WAIT = "wait"
    ACT = "act"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing."""

    about: str
    level: Level
    says: str


def some(names: Sequence[str]) -> str:
    """The first of them."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
