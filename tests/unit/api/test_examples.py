"""The examples say what they mean: every annotation of ours in them is one that admission takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prestage.api.annotations import is_ours, parse

EXAMPLES = Path(__file__).resolve().parents[3] / "daemonset" / "examples"


@pytest.mark.parametrize("name", ["deployment", "vllm", "job", "statefulset"])
def test_an_example_names_models_and_makes_no_mistake(name: str) -> None:
    text = (EXAMPLES / f"{name}.yaml").read_text()
    [pod] = [one["spec"]["template"] for one in yaml.safe_load_all(text) if "template" in one.get("spec", {})]
    annotations = pod["metadata"]["annotations"]
    assert all(is_ours(key) for key in annotations)
    assert parse(annotations).models
