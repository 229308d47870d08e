"""The bench's hand on `prestage`: the public command line, run as a script would run it, and nothing behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher import errors

_TIMEOUT_S = 24 * 3600.0
"""A day: staging has no total timeout of its own, the bench must end some day."""


@dataclass(frozen=True, slots=True)
class StageDone:
    """The last line of `prestage stage --json`."""

    artifact: str
    files: int
    bytes: int
    seconds: float
    bytes_by_source: Mapping[str, int]


def stage_command(ref: str, root: Path, *options: str) -> list[str]:
    """`prestage stage REF --root ROOT --json`, on this interpreter."""
    return [sys.executable, "-m", "prestage.cacher.cli", "stage", ref, "--root", str(root), "--json", *options]


def stage(ref: str, root: Path, environment: Mapping[str, str] | None = None) -> StageDone:
    """Stage `ref`.

    Raises:
        PrestageError: of the class that the command ended with.
    """
    done = last_event(_run(stage_command(ref, root), environment))
    return StageDone(
        artifact=str(done["artifact"]),
        files=int(str(done["files"])),
        bytes=int(str(done["bytes"])),
        seconds=float(str(done["seconds"])),
        bytes_by_source={str(source): int(count) for source, count in dict(done["bytes_by_source"]).items()},  # type: ignore[call-overload] # from JSON
    )


def path(ref: str, root: Path) -> Path:
    """The directory that holds `ref`; raises as `stage` does."""
    output = _run([sys.executable, "-m", "prestage.cacher.cli", "path", ref, "--root", str(root)], None)
    return Path(output.strip().splitlines()[-1])


def evict(ref: str, root: Path) -> None:
    """Let go of `ref`; raises as `stage` does."""
    _run([sys.executable, "-m", "prestage.cacher.cli", "evict", ref, "--root", str(root)], None)


def last_event(output: str) -> dict[str, object]:
    """The last JSON line of `output`.

    Raises:
        Bug: it is not the event `done`.
    """
    lines = [line for line in output.splitlines() if line.startswith("{")]
    event: dict[str, object] = json.loads(lines[-1]) if lines else {}
    if event.get("event") != "done":
        raise errors.Bug("`prestage stage` succeeded without saying so", hint="report this with its --json output")
    return event


def _run(command: Sequence[str], environment: Mapping[str, str] | None) -> str:
    merged = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=merged, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise _failure(command[3], done.returncode, done.stderr)
    return done.stdout


def _failure(name: str, code: int, words: str) -> errors.PrestageError:
    """What `prestage NAME` said, as the error it was: its line that starts with `prestage:`, and the hint below it."""
    lines = [line for line in words.splitlines() if line.strip()]
    told = [number for number, line in enumerate(lines) if line.startswith("prestage: ") and ": warning: " not in line]
    if not told or code not in _CLASSES:
        last = lines[-1].strip() if lines else "it said nothing"
        return errors.Bug(f"`prestage {name}` ended with exit code {code}: {last}", hint="run it by hand to see more")
    hint = lines[told[0] + 1].strip() if told[0] + 1 < len(lines) else None
    return _CLASSES[code](lines[told[0]].removeprefix("prestage: "), hint=hint)


_CLASSES: dict[int, type[errors.PrestageError]] = {
    kind.exit_code: kind
    for kind in (
        errors.Misconfigured,
        errors.NotFound,
        errors.Denied,
        errors.Corrupt,
        errors.Busy,
        errors.Full,
        errors.Unavailable,
    )
}
