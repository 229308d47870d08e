"""What older versions left on the disk, killed at work: this version takes it over and goes on, nothing is fetched twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from agents import Agent
from bringing import read_folder
from commands import Prestage
from stores.older import CUT_OFF, FILES, HELD, VERSIONS, hub_of, unpacked

from prestage.cacher.digests import PIECE_BYTES
from servers.hub import Hub

CHANGELOG = Path(__file__).parents[3] / "CHANGELOG.md"


def assert_went_on(done: Mapping[str, object], hub: Hub) -> None:
    """The whole pieces that the older version had are not asked for again."""
    assert done["event"] == "done", done
    assert read_folder(Path(str(done["path"]))) == FILES["org/cut"]
    asked = [seen.range or "bytes=0-" for seen in hub.log if seen.path.startswith("/repos/")]
    assert asked
    assert all(int(ranged.removeprefix("bytes=").partition("-")[0]) >= PIECE_BYTES for ranged in asked), asked


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_held_is_held_and_what_was_cut_off_goes_on(version: str, tmp_path: Path) -> None:
    with hub_of(version, tmp_path / "hub") as hub:
        env = {"HF_ENDPOINT": hub.endpoint, "NO_COLOR": "1"}
        prestage = Prestage(unpacked(version, tmp_path / "by command"), env)
        assert {row["ref"] for row in json.loads(prestage("ls", "--json").out)} >= {HELD}
        assert_went_on(prestage("stage", CUT_OFF, "--json").last, hub)

        hub.log.clear()
        with Agent(unpacked(version, tmp_path / "by agent"), env=env) as agent:
            path = Path(agent.ask("GET", "/v1/resolve", query={"ref": HELD}).good["path"])
            assert read_folder(path) == FILES["org/held"]
            assert agent.prestage("verify", "--json").last["bad"] == []
            assert "held by pin" in agent.prestage("evict", HELD).err
            assert_went_on(agent.prestage("stage", CUT_OFF, "--json").last, hub)


def test_a_version_that_is_released_has_left_its_store_here() -> None:
    released = {
        line.partition("[")[2].partition("]")[0] for line in CHANGELOG.read_text().splitlines() if line.startswith("## [")
    }
    assert released - {"Unreleased"} <= set(VERSIONS)
