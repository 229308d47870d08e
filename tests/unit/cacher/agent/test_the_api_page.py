"""docs/api.md names every call that exists, and none that does not."""

from __future__ import annotations

import re
from pathlib import Path

from prestage.cacher.agent.routes import ROUTES

PAGE = Path(__file__).parents[4] / "docs" / "api.md"


def test_the_page_and_the_routes_agree() -> None:
    told = set(re.findall(r"`(GET|POST|DELETE) (/v1/[^`? ]*)", PAGE.read_text()))
    there = {(route.method, route.path) for route in ROUTES} | {("GET", "/v1/openapi.json")}
    assert told == there
