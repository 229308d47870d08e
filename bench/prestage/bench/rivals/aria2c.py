"""aria2c: several ranges of one file at once, preallocated."""

from __future__ import annotations

from pathlib import Path

from prestage.bench.rivals.ports import Invocation, Target, program, url_of

_CONNECTIONS_MAX = 16
"""aria2's own limit for -x."""


def plan(target: Target, folder: Path) -> Invocation:
    """`-x` connections, 16 MiB a piece."""
    aria2c, count = program("aria2c"), str(min(target.connections, _CONNECTIONS_MAX))
    trust = (f"--ca-certificate={target.ca_bundle}",) if target.ca_bundle else ()
    many = ("-x", count, "-s", count, "-k", "16M", "--file-allocation=falloc")
    command = (aria2c, "-q", "--no-conf", *trust, *many, "-d", str(folder), "-o", "object", url_of(target))
    return Invocation(command, (aria2c, "--version"), folder / "object")
