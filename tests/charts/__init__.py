"""The chart, rendered by a real helm."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from servers.programs import find, lacking

HOUSE = Path(__file__).resolve().parents[2]
CHART = HOUSE / "daemonset" / "chart"
CRD_CHART = HOUSE / "daemonset" / "chart-crds"
NAMESPACE = "prestage"
IMAGE = ("image.repository=registry.example/prestage", "image.tag=v1")

POLICIES = ("admissionregistration.k8s.io/v1/MutatingAdmissionPolicy",)

Manifest = dict[str, Any]


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """One run of helm; it never reads the caller's configuration."""
    found = find("helm")
    if found is None:
        raise RuntimeError(lacking("helm"))
    env = {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
    return subprocess.run([found, *words], capture_output=True, text=True, timeout=120, env=env, check=False)


def rendered(*values: str, kubernetes: str = "1.36.3", serves: Sequence[str] = ()) -> str:
    """What `helm template` prints with `--set` of each of `values`, for an API server that `serves` these beside the usual.

    Raises RuntimeError with what it says when it refuses.
    """
    sets = [word for value in (*IMAGE, *values) for word in ("--set", value)]
    sets += [word for version in serves for word in ("--api-versions", version)]
    done = helm("template", "prestage", CHART, "--namespace", NAMESPACE, "--kube-version", kubernetes, *sets)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout


class Rendered:
    """The objects of one rendering."""

    def __init__(self, *values: str, kubernetes: str = "1.36.3", serves: Sequence[str] = ()) -> None:
        text = rendered(*values, kubernetes=kubernetes, serves=serves)
        self.all: list[Manifest] = [one for one in yaml.safe_load_all(text) if one]

    def kind(self, kind: str) -> list[Manifest]:
        """In the order of helm."""
        return [one for one in self.all if one["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        """That one; KeyError where there is none."""
        for found in self.kind(kind):
            if found["metadata"]["name"] == name:
                return found
        raise KeyError(f"{kind} {name}")

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Name of the workload, and the pod of its template."""
        for found in (*self.kind("Deployment"), *self.kind("DaemonSet")):
            yield found["metadata"]["name"], found["spec"]["template"]
