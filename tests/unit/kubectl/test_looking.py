"""The chart's values and what the doctor believes of them agree."""

from __future__ import annotations

from pathlib import Path

import yaml

from prestage.kubectl import judgement

VALUES = yaml.safe_load((Path(__file__).resolve().parents[3] / "daemonset" / "chart" / "values.yaml").read_text())


def test_the_doctor_knows_the_charts_defaults() -> None:
    assert VALUES["kubeletDir"] == judgement.KUBELET_DIR
    assert tuple(one["key"] for one in VALUES["node"]["tolerations"]) == judgement.TOLERATED
