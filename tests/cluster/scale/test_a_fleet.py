"""Twenty nodes, sixty pods: every one runs, none is refused, each costs few writes. Times are for `make bench-control`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.fleet import fleet

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node", "kwok")]
NODES, PODS, REPLICAS, ALONE = 20, 60, 10, 1


def test_pods_of_a_fleet_are_gated_staged_and_run_for_a_few_writes_each(tmp_path: Path) -> None:
    with fleet(tmp_path, PODS // REPLICAS + ALONE) as running:
        counts = ("--nodes", NODES, "--pods", PODS, "--replicas", REPLICAS, "--alone", ALONE)
        done = running.bench(*counts, "--patience", 60, "--settle", 0.7, "--json")
        assert done.exit_code == 0, done.stderr
        said = json.loads(done.stdout)
        fill, alone = said["fill"], said["alone"]
        assert (fill["pods"], alone["pods"]) == (PODS, ALONE)
        assert fill["refused"] == alone["refused"] == 0
        assert fill["writes_per_pod"] <= 6
        assert sum(count for decided, count in fill["gates"].items() if decided.startswith("Gate")) > 0
        assert fill["own"]["gate"]["count"] >= 1
        assert fill["own"]["nodecache"]["count"] >= PODS // REPLICAS
        assert running.cluster.kubectl("get", "nodes,pods,deployments", "-A", "-o", "name") == ""
