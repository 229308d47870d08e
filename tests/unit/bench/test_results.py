"""Figures, schemas, tables, plots and reports of results with known samples."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from prestage.bench import fetch, plots, report, start, tables

_SUMMARY = {"median", "low", "high", "spread", "interval", "values"}
_PNG = b"\x89PNG\r\n\x1a\n"


def test_the_speed_up_is_cold_total_over_warm_total(start_result: start.StartResult) -> None:
    found = start_result.speedup(start.WARM)
    assert found is not None
    assert found[0].values == (10.0, 10.0)
    assert not found[1].noisy


def test_without_a_cold_download_there_is_no_speed_up(start_result: start.StartResult) -> None:
    samples = tuple(sample for sample in start_result.samples if sample.variant != start.COLD)
    result = dataclasses.replace(start_result, samples=samples)
    assert result.speedup(start.WARM) is None
    content = result.to_json()
    assert content["speedups"] == {}
    assert content["cold_client"] is None


def test_start_json_has_the_schema_it_documents(start_result: start.StartResult) -> None:
    content = json.loads(json.dumps(start_result.to_json()))
    documented = set(re.findall(r'"(\w+)"', str(start.__doc__).split("{", 1)[1].split('"variants"')[0])) - {"cold-origin"}
    assert documented - {"seconds", "bytes_by_source", "start"} <= content.keys()
    assert set(content["variants"]) == {start.COLD, start.DISK, start.WARM}
    warm = content["variants"][start.WARM]
    assert warm["total_s"].keys() == _SUMMARY
    assert set(warm["phases"]) == set(start.PHASES)
    assert content["speedups"][start.WARM] == {
        "over": start.COLD,
        "ratio": {
            "median": 10.0,
            "low": 10.0,
            "high": 10.0,
            "spread": 0.0,
            "interval": {"low": 10.0, "high": 10.0, "confidence": 0.5},
            "values": [10.0, 10.0],
        },
        "noisy": False,
        "reasons": [],
    }
    assert len(content["samples"]) == 6
    assert content["machine"]["cores"] > 0
    assert content["same_answer"] is True


def test_fetch_json_has_the_schema_it_documents(fetch_result: fetch.FetchResult) -> None:
    content = json.loads(json.dumps(fetch_result.to_json()))
    assert content["bench"] == "fetch"
    assert content["schema"] == 1
    assert list(content["tools"]) == ["prestage", "rclone", "curl"]
    assert content["fastest_rival"] == "rclone"
    ours = content["tools"]["prestage"]
    assert ours["gb_per_s"]["median"] == 1.0
    assert ours["cpu_s_per_gb"]["median"] == 0.5
    assert ours["rss_mib"]["median"] == 64.0
    over = content["ours_over"]["rclone"]
    assert (over["speed"]["median"], over["cpu"]["median"]) == (2.0, 0.25)
    assert over["speed"].keys() == {*_SUMMARY, "noisy", "reasons"}
    assert content["skipped"] == {"aria2c": "aria2c is not installed"}
    assert content["failed"] == {"s5cmd": ["it broke"]}
    assert len(content["samples"]) == 9


def test_a_rival_without_samples_is_no_fastest_rival(fetch_result: fetch.FetchResult) -> None:
    alone = tuple(sample for sample in fetch_result.samples if sample.tool == "prestage")
    result = dataclasses.replace(fetch_result, samples=alone)
    assert result.fastest_rival is None
    assert result.to_json()["ours_over"] == {}


def _text(part: RenderableType) -> str:
    console = Console(width=160, file=io.StringIO(), record=True)
    tables.show(console, part)
    return console.export_text()


def test_the_table_shows_formula_ratio_and_machine(start_result: start.StartResult) -> None:
    shown = _text(tables.start_table(start_result))
    assert re.search(r"warm +0\.50 s +0 ms +0\.25 s +0\.25 s +1\.00 s .* 10x", shown)
    assert start.FORMULA in shown
    assert "1 Gbit/s" in shown
    assert start_result.machine.line() in shown


def test_a_noisy_ratio_is_marked_and_explained(start_result: start.StartResult) -> None:
    once = dataclasses.replace(start_result, samples=start_result.samples[:3])
    shown = _text(tables.start_table(once))
    assert "10x?" in shown
    assert "too noisy to conclude (cold-disk, warm): one round only" in shown


def test_the_fetch_table_names_who_is_missing(fetch_result: fetch.FetchResult) -> None:
    shown = _text(tables.fetch_table(fetch_result))
    assert re.search(r"rclone +0\.50 .* 2\.00x +0\.25x", shown)
    assert "aria2c did not take part: aria2c is not installed" in shown
    assert "s5cmd failed: it broke" in shown


@pytest.mark.parametrize(("value", "text"), [(0.0421, "42 ms"), (0.5, "0.50 s"), (9.99, "9.99 s"), (17.26, "17.3 s")])
def test_seconds_have_three_digits_at_most(value: float, text: str) -> None:
    assert tables.seconds(value) == text


@pytest.mark.usefixtures("fonts_are_open")
def test_plots_are_pictures(start_result: start.StartResult, fetch_result: fetch.FetchResult, tmp_path: Path) -> None:
    plots.plot_start([start_result, start_result], tmp_path / "start.png")
    plots.plot_fetch(fetch_result, tmp_path / "fetch.png")
    for name in ("start.png", "fetch.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(_PNG)
        assert len(content) > 20_000


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.bars = 0
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect", "br"):
            self.open.append(tag)
        self.bars += tag == "svg"
        self.outside += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return None

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_and_needs_nothing_from_outside(
    start_result: start.StartResult, fetch_result: fetch.FetchResult, tmp_path: Path
) -> None:
    report.write_report(tmp_path / "report.html", starts=[start_result], fetches=[fetch_result])
    content = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(content)
    assert page.open == []
    assert page.outside == []
    assert page.bars == 3 + 2 * 3
    assert "prefers-color-scheme:dark" in content
    assert "url(" not in content
    assert "<script" not in content
    assert "hf://org/&lt;name&gt;@main" in content
    assert "<name>" not in content
    assert "10x" in content
