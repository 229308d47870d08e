"""docs/broker.md knows every code that the broker refuses with, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import prestage.control.broker.refusals as refusals

ROOM = Path(refusals.__file__).parent
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "broker.md"
_SAID = re.compile(r'(?:denied|misconfigured)\(\s*"([A-Z]\w+)"|ErrorClass\.\w+,\s*"([A-Z]\w+)"|code="([A-Z]\w+)"')
_BUGS = {"Bug", "BadRequest", "TooManyPaths", "TooManyModels", "NoSuchFile", "NoTemplate", "TooMuchContent"}
"""What only our own processes could cause."""
_PLAIN = {"Busy", "Full", "CannotResolve", "OriginCorrupt", "NoOrigin", "BrokenModel", "BrokenPolicy"}
"""Whose message says it all."""


def test_every_code_is_documented_and_every_documented_code_is_said() -> None:
    texts = [path.read_text() for path in ROOM.glob("*.py")]
    said = {next(filter(None, found)) for text in texts for found in _SAID.findall(text)}
    table = DOCUMENT.read_text().split("## Codes")[1].split("## Running it")[0]
    documented = {code for row in table.splitlines() for code in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")}
    assert said - documented - _BUGS - _PLAIN == set()
    assert documented - said == set()
