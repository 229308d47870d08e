"""What is logged beside the event's name is said: our formatters know fields, and nothing else of a record."""

from __future__ import annotations

import re
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[3]
CALL = re.compile(r"log\w*\.(?:debug|info|warning|error|exception|log)\([^)]*?extra=(?!\{\"fields\":)", re.DOTALL)


def test_every_logged_field_reaches_the_line() -> None:
    sources = [path for root in ("cacher", "daemonset") for path in (HOUSE / root / "prestage").rglob("*.py")]
    assert len(sources) > 100
    assert [str(path.relative_to(HOUSE)) for path in sources if CALL.search(path.read_text())] == []


def test_the_rule_finds_what_it_is_for() -> None:
    assert CALL.search('_log.warning("x", extra={"lease": name})')
    assert not CALL.search('_log.warning("x", extra={"fields": {"lease": name}})')
