"""Prestage as its users have it: by helm, from an image, as pods of a real kubelet with the privileges of the chart and no more.

There is no DNS in the test cluster: the broker's name is an alias of its Service's fixed address. The store lies on a disk of its
own, which the chart insists on: a small ext4 in a file.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import kinds, rootfs
from cluster.network import run
from cluster.node import Node
from cluster.whole import Cluster
from servers.programs import find

CHART = Path(__file__).resolve().parents[2] / "daemonset" / "chart"
IMAGE = "localhost/prestage"
NAMESPACE = "prestage"
ROOT = "/mnt/prestage/store"
IN_PLACE = os.environ.get("PRESTAGE_IMAGES_IN_PLACE") == "1"
"""How the chart's images container stages: by the socket, which is the default."""
PRESTAGE_START_S = 240.0
DISK_BYTES = 640 << 20
_DISK = f"""
rm -f /var/disk
truncate -s {DISK_BYTES} /var/disk
mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 /var/disk
mkdir -p /mnt/prestage
mount -o loop /var/disk /mnt/prestage
mkdir -p {ROOT}
"""


class Installed:
    """On every node of `cluster`. `origins`: by name, each the default of its type (docs/kubernetes-api.md, Origin)."""

    def __init__(self, cluster: Cluster, folder: Path, *, origins: Mapping[str, Mapping[str, object]]) -> None:
        self.cluster = cluster
        self._folder = folder
        self._origins = origins
        self.image = rootfs.write(folder / "prestage.tar", f"{IMAGE}:test")

    def install(self) -> None:
        """Image, disk, kinds, chart; returns when all of it is ready."""
        for node in self.cluster.nodes:
            node.import_image(self.image)
            self.mount_disk(node)
        kinds.install(self.cluster.api)
        self.cluster.kubectl("create", "namespace", NAMESPACE)
        self.cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged")
        values = self._folder / "values.json"
        values.write_text(json.dumps(self.values()))
        self.helm("install", "prestage", CHART, "--values", values)
        self.all_ready()

    def mount_disk(self, node: Node) -> None:
        """An empty one, where the chart looks for it."""
        run(*node.enter("/bin/sh", "-ec", _DISK))

    def all_ready(self) -> None:
        """Every workload of the chart."""
        for workload in (
            "daemonset/prestage-node",
            *(f"deployment/prestage-{one}" for one in ("broker", "admission", "planner")),
        ):
            self.ready(workload)

    def values(self) -> dict[str, Any]:
        """One replica of each: two cores serve the whole cluster."""
        address = f"{self.cluster.ip.rsplit('.', 2)[0]}.255.50"
        small: dict[str, Any] = {"replicas": 1, "resources": {}}
        return {
            "image": {"repository": IMAGE, "tag": "test", "pullPolicy": "Never"},
            "pools": {"default": {"root": ROOT, "requireMountpoint": True}},
            "images": {
                "enabled": True,
                "inPlace": IN_PLACE,
                "highWater": 100,  # the machine's own disk may be as full as it is
                "resources": {},
            },
            "broker": {**small, "clusterIP": address},
            "planner": small,
            "admission": small,
            "hostAliases": [{"ip": address, "hostnames": [f"prestage-broker.{NAMESPACE}.svc"]}],
            "origins": {name: {"default": True, **said} for name, said in self._origins.items()},
        }

    def ready(self, workload: str) -> None:
        """Wait until it is rolled out; what its pods said where it is not."""
        what = ("rollout", "status", workload, "-n", NAMESPACE, f"--timeout={PRESTAGE_START_S:.0f}s")
        done = self.cluster.api.try_kubectl(*what)
        if done.returncode != 0:
            raise RuntimeError(f"{workload}: {done.stdout}{done.stderr}\n{self.words(workload)}")

    def words(self, workload: str) -> str:
        """Its last log lines."""
        logs = ("logs", workload, "-n", NAMESPACE, "--all-containers", "--tail=20")
        return self.cluster.api.try_kubectl(*logs).stdout

    def helm(self, *words: str | Path) -> str:
        """What it prints. Raises RuntimeError with what it says when it fails."""
        done = self.try_helm(*words)
        if done.returncode != 0:
            raise RuntimeError(f"helm {' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def try_helm(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        found = find("helm")
        assert found is not None
        env = {"HOME": str(self._folder), "PATH": os.defpath, "KUBECONFIG": str(self.cluster.api.kubeconfig)}
        argv = [found, *words, "--namespace", NAMESPACE]
        return subprocess.run(argv, capture_output=True, text=True, timeout=300, env=env, check=False)
