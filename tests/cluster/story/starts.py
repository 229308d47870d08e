"""From a pod's creation to its container running, on a real node: its image and its model are there, its model alone, neither.
Run by hand: `make starts`; prints a table, and draws it where PRESTAGE_PNG says.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from layers import Tar, image
from story import Story, uploaded

from cluster.images import BUSYBOX
from prestage.bench.machine import describe
from prestage.bench.rounds import schedule
from prestage.pictures.style import DPI, FAINT, INK, SERIES, new_figure, plain_axes
from servers.registry import Registry

pytestmark = [
    pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server", "docker-registry"),
    pytest.mark.timeout(900),
]
BOTH, MODEL, NOTHING = "image and model staged", "model staged", "nothing staged"
BYTES = 200_000_000
"""Of an image and of a model, another pair for each pod; none of it can be compressed."""
ROUNDS = 3
GOAL_S = 1.5
"""BOTH, at the median."""


def staged(name: str, picture: str, case: str) -> str:
    """A StagingSchedule that always wants them."""
    artifacts: list[dict[str, object]] = [{"name": "weights", "modelRef": {"name": name}}]
    if case == BOTH:
        artifacts.append({"name": "engine", "type": "Image", "image": picture, "pullSecretRef": {"name": "regcred"}})
    spec = {"artifacts": artifacts, "nodes": {"selector": {}}, "windows": [{"name": "always"}]}
    return ours("StagingSchedule", name, spec)


def ours(kind: str, name: str, spec: Mapping[str, object]) -> str:
    metadata = {"name": name, "namespace": "demo"}
    return json.dumps({"apiVersion": "prestage.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})


def pod(name: str, picture: str) -> str:
    container = {"name": "c", "image": picture, "command": ["/bin/busybox", "sleep", "600"]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "imagePullSecrets": [{"name": "regcred"}]}
    metadata = {"name": name, "namespace": "demo", "annotations": {"model.prestage.dev/llama": f"ref:{name}"}}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


@contextmanager
def waiting(story: Story, registry: Registry, name: str, case: str) -> Iterator[str]:
    """What the case says is on the node; the image's name. Nobody asks for it in the end."""
    kubectl = story.cluster.kubectl
    system = Tar().folder("bin").file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755).end()
    weight = Tar().folder("opt").file("opt/weight", random.Random(name).randbytes(BYTES)).end()
    picture = registry.push(f"team/{name}", "v1", image([(system, "gzip"), (weight, "gzip")]))
    source = f"s3://models/{name}/"
    uploaded(story.origin, source, size_bytes=BYTES)
    credentials = {"type": "Secret", "secretRef": {"name": "s3"}}
    kubectl("apply", "-f", "-", stdin=ours("StagedModel", name, {"source": source, "credentials": credentials}))
    if case != NOTHING:
        kubectl("apply", "-f", "-", stdin=staged(name, picture, case))
        kubectl("wait", "stagingschedule", name, "-n", "demo", "--for=condition=Ready", "--timeout=120s")
    try:
        yield picture
    finally:
        kubectl("delete", "pod", name, "-n", "demo", "--ignore-not-found", "--timeout=60s")
        kubectl("delete", "stagingschedule", name, "-n", "demo", "--ignore-not-found")
        kubectl("delete", "stagedmodel", name, "-n", "demo")


def start_s(story: Story, name: str, picture: str) -> float:
    """Created to running."""
    kubectl = story.cluster.kubectl
    began_s = time.monotonic()
    kubectl("apply", "-f", "-", stdin=pod(name, picture))
    kubectl("wait", "pod", name, "-n", "demo", "--for=jsonpath={.status.containerStatuses[0].started}=true", "--timeout=180s")
    return time.monotonic() - began_s


def drawn(found: dict[str, list[float]], file: Path) -> None:
    """A bar a case: its median, and every pod of it."""
    figure = new_figure(width=10, height=3.0)
    panel = figure.subplots()
    for place, values in enumerate(found.values()):
        panel.barh(place, statistics.median(values), height=0.56, color=SERIES[place])
        panel.scatter(values, [place] * len(values), color=INK, s=14, zorder=3)
        panel.text(max(values) + 0.1, place, f"{statistics.median(values):.2f} s", va="center", fontsize=10.5, color=INK)
    panel.axvline(GOAL_S, color=FAINT, linewidth=1, linestyle="--")
    panel.set_yticks(range(len(found)), list(found), fontsize=11, color=INK)
    panel.set_xlim(0, max(map(max, found.values())) * 1.15)
    plain_axes(panel, f"seconds, medians and each of {ROUNDS} pods; dashed: the goal with both staged")
    title = f"From a pod's creation to its container running: {BYTES // 10**6} MB of image, {BYTES // 10**6} MB of model"
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold", color=INK)
    figure.supxlabel(describe(file.parent).line(), x=0.012, ha="left", fontsize=8, color=FAINT)
    figure.savefig(file, dpi=DPI, facecolor="white")


@pytest.mark.usefixtures("fonts_are_open")
def test_a_pods_start_with_its_image_and_its_model_staged_with_its_model_alone_and_with_nothing(
    story: Story, registry: Registry
) -> None:
    found = dict[str, list[float]]({BOTH: [], MODEL: [], NOTHING: []})
    with waiting(story, registry, "unmeasured", NOTHING) as picture:  # what every first pod of a node waits for
        start_s(story, "unmeasured", picture)
    for number, case in schedule(tuple(found), ROUNDS, seed=1):
        name = f"{case.split()[0]}-{number}"
        with waiting(story, registry, name, case) as picture:
            found[case].append(start_s(story, name, picture))
        print(f"{case}: {found[case][-1]:.2f} s")
    print(describe(Path.cwd()).line())
    for case, values in found.items():
        print(f"{case}: median {statistics.median(values):.2f} s ({min(values):.2f}-{max(values):.2f}; {len(values)} pods)")
    if file := os.environ.get("PRESTAGE_PNG"):
        drawn(found, Path(file))
    assert statistics.median(found[BOTH]) < statistics.median(found[NOTHING])
