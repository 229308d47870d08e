"""What the chart took from the code is what the code says now (`make chart`)."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[3]
MAKER = runpy.run_path(str(HOUSE / ".ci" / "chart.py"))
GENERATED: Path = MAKER["TARGET"]


@pytest.mark.parametrize(
    ("folder", "part"), [*(("rules", part) for part in MAKER["RULES"]), *(("optional", part) for part in MAKER["OPTIONAL"])]
)
def test_rights_are_those_that_the_code_states(folder: str, part: str) -> None:
    assert (GENERATED / folder / f"{part}.yaml").read_text() == MAKER["rules"](part), "run `make chart`"


def test_webhooks_and_policies_are_those_that_the_code_states() -> None:
    for name, text in MAKER["admission"]().items():
        assert (GENERATED / name).read_text() == text, "run `make chart`"
