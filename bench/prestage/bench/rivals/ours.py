"""prestage itself, as a child process like the rivals: into a new store, verified and durable when it returns."""

from __future__ import annotations

import sys
from pathlib import Path

from prestage.bench import staged
from prestage.bench.rivals.ports import Invocation, Target


def plan(target: Target, folder: Path) -> Invocation:
    """`prestage stage` with as many connections as the rivals get."""
    command = staged.stage_command(target.ref, folder / "store", "--connections", str(target.connections))
    trust = {"PRESTAGE_CA_BUNDLE": str(target.ca_bundle)} if target.ca_bundle else {}
    place = {"AWS_ENDPOINT_URL": target.endpoint} if target.endpoint else {}
    version = (sys.executable, "-m", "prestage.cacher.cli", "--version")
    return Invocation(tuple(command), version, None, {**trust, **place})
