"""The examples say what they mean: every annotation of ours in them is one that admission takes, and every file is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from prestage.api.annotations import is_ours, parse

HOUSE = Path(__file__).resolve().parents[3]
EXAMPLES = {path.stem: path for path in (HOUSE / "daemonset" / "examples").iterdir()}
DECLARED = {"kinds", "adapter"}
"""Objects of ours, and no pod."""


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - DECLARED))
def test_an_example_names_models_and_makes_no_mistake(name: str) -> None:
    text = EXAMPLES[name].read_text()
    [pod] = [one["spec"]["template"] for one in yaml.safe_load_all(text) if "template" in one.get("spec", {})]
    annotations = pod["metadata"]["annotations"]
    assert all(is_ours(key) for key in annotations)
    assert parse(annotations).models


def test_every_example_but_the_list_of_kinds_is_run_in_the_storys_cluster() -> None:
    modules = (HOUSE / "tests" / "cluster" / "story").glob("*.py")
    run = {name for module in modules for name in re.findall(r'\bexample\("(\w+)"', module.read_text())}
    assert run == EXAMPLES.keys() - {"kinds"}


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - {"kinds"}))
def test_a_secret_that_an_example_names_is_one_that_its_first_lines_make_and_open(name: str) -> None:
    text = EXAMPLES[name].read_text()
    named = set(re.findall(r"(?:prestage\.dev/credentials:|secretRef: \{name:) ([\w-]+)", text))
    head = text[: text.index("apiVersion")]
    assert set(re.findall(r"--secret (\S+)", head)) == set(re.findall(r"create secret generic (\S+)", head)) == named
    assert re.search(rf"kubectl apply -n \S+ -f {name}\.yaml", head)
