"""File systems of a test's own: mounted where nobody else sees them, gone with the process."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CACHER = TESTS.parent / "cacher"


def in_a_mount_namespace(script: str) -> subprocess.CompletedProcess[str]:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and a private mount namespace (unshare -m)")
    environment = {**os.environ, "PYTHONPATH": f"{CACHER}:{TESTS}"}
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "bash", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
