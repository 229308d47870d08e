"""A finding: one thing looked at, how it is, what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from prestage.cacher.errors import Misconfigured, PrestageError


class Level(StrEnum):
    """How bad."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; works."""
    WARNING = "warning"
    """Works, worse than it could or not for ever."""
    ERROR = "error"
    """Does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is a stable word for what was looked at; `do` is None where nothing need be done."""

    check: str
    level: Level
    found: str
    do: str | None = None
    kind: str | None = None
    """Of an error: the class that it belongs to (docs/cli.md, exit codes)."""

    def to_json(self) -> dict[str, str | None]:
        """As `prestage doctor --json` prints it."""
        return {"check": self.check, "level": self.level.value, "found": self.found, "do": self.do, "kind": self.kind}


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def note(check: str, found: str, do: str | None = None) -> Finding:
    """Worth knowing."""
    return Finding(check, Level.NOTE, found, do)


def warning(check: str, found: str, do: str) -> Finding:
    """Better changed."""
    return Finding(check, Level.WARNING, found, do)


def error(check: str, found: str, do: str, kind: str = "misconfigured") -> Finding:
    """Must be changed."""
    return Finding(check, Level.ERROR, found, do, kind)


_CLASSES: tuple[type[PrestageError], ...] = (PrestageError, *PrestageError.__subclasses__())
_CODES = {one.kind: one.exit_code for one in _CLASSES}


def exit_code(findings: Sequence[Finding]) -> int:
    """0 without errors, else that of the first one's class."""
    for finding in findings:
        if finding.level is Level.ERROR:
            return _CODES.get(finding.kind or "misconfigured", Misconfigured.exit_code)
    return 0
