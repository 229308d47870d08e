"""`prestage bench agent` measures a real agent and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Prestage


def test_the_agents_figures_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    prestage = Prestage(tmp_path / "store", {"NO_COLOR": "1"})
    place = tmp_path / "disk"
    done = prestage("bench", "agent", "--dir", str(place), "--idle", "2", "--resolves", "50", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert 0 <= result["idle_cores"] < 0.2
    assert 10e6 < result["rest_rss_bytes"] <= result["peak_rss_bytes"] < 300e6
    assert 0 < result["resolve_p50_s"] <= result["resolve_p99_s"]
    assert 0 < result["progress_gap_s"] < 5
    assert result["machine"]["cores"] > 0
    assert list(place.iterdir()) == []
    assert "agent" in prestage("bench", "--help").out
