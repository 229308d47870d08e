"""curl: one stream, as in most entrypoint scripts."""

from __future__ import annotations

from pathlib import Path

from prestage.bench.rivals.ports import Invocation, Target, program, url_of


def plan(target: Target, folder: Path) -> Invocation:
    """One GET to a file."""
    curl = program("curl")
    trust = ("--cacert", str(target.ca_bundle)) if target.ca_bundle else ()
    command = (curl, "-fsSL", *trust, "-o", str(folder / "object"), url_of(target))
    return Invocation(command, (curl, "--version"), folder / "object")
