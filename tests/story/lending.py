"""What the tests' image lacks, lent to a pod by hostPaths of this machine: a framework's packages, what they are linked with."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parents[2]
OURS = Path(sysconfig.get_path("purelib")).resolve()
"""Packages beside which ours are installed."""
_LIBRARIES = Path("/usr/lib") / f"{platform.machine()}-linux-gnu"
"""What torch is linked with."""
_CORES = Path("/usr/bin/lscpu")
"""vLLM asks it."""


def python_of(environment: str) -> Path:
    """The interpreter of one of ours below .tools, on this machine."""
    return HOUSE / ".tools" / environment / "bin" / "python"


def packages_of(environment: str) -> Path:
    """Of one of ours below .tools."""
    return (HOUSE / ".tools" / environment / "lib" / OURS.parent.name / "site-packages").resolve()


def lend(
    spec: dict[str, Any], *packages: Path, env: Mapping[str, str] | None = None, files: Mapping[Path, str] | None = None
) -> None:
    """To the first container of a pod: `packages` on its PYTHONPATH, `env`, and further `files` by their place in it."""
    container = spec["containers"][0]
    lent = {**{path: str(path) for path in packages}, _LIBRARIES: "/lent", _CORES: str(_CORES), **(files or {})}
    volumes, mounts = spec.setdefault("volumes", []), container.setdefault("volumeMounts", [])
    for at, (path, place) in enumerate(lent.items()):
        volumes.append({"name": f"lent-{at}", "hostPath": {"path": str(path)}})
        mounts.append({"name": f"lent-{at}", "mountPath": place, "readOnly": True})
    given = {"PYTHONPATH": ":".join(map(str, packages)), "LD_LIBRARY_PATH": "/usr/local/lib:/lent", **(env or {})}
    container.setdefault("env", []).extend({"name": name, "value": value} for name, value in given.items())
