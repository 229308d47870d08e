"""`prestage plan --dry-run`: the timeline of a file, what is late and what would fix it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Misconfigured
from prestage.control.rehearsal.bars import chart_of
from prestage.control.rehearsal.cli import plan
from prestage.control.rehearsal.file import read_rehearsal
from prestage.control.rehearsal.shown import as_json, shown
from prestage.planner.timeline import Deed

FILE = """
now: 2026-11-27T06:00:00Z
models: {llama: 141G, qwen: 28G, big: 812G}
nodes:
- {name: n1, budget: 1T, rate: 1G, warm: [qwen]}
- {name: n2, budget: 500G, rate: 250M}
demand:
- {model: llama, readyBy: "2026-11-27T08:00:00+01:00", duration: 10h, copies: 2}
- {model: qwen, boundTo: [n1]}
"""
LATE = "- {model: big, readyBy: +5m, duration: 1h}\n"


def run(tmp_path: Path, text: str, *more: str) -> tuple[int, str]:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    made = CliRunner().invoke(plan, ["--dry-run", "-f", str(file), *more])
    if isinstance(made.exception, Misconfigured):
        raise made.exception
    return made.exit_code, made.output


def test_the_timeline_says_when_each_node_begins_and_is_warm(tmp_path: Path) -> None:
    code, shown = run(tmp_path, FILE)
    assert code == 0
    assert shown.splitlines()[1:6] == [
        "2026-11-27T06:00:00  n1            begins   llama",
        "2026-11-27T06:00:00  n2            begins   llama",
        "2026-11-27T06:02:21  n1            warm     llama",
        "2026-11-27T06:09:24  n2            warm     llama",
        "2026-11-27T07:00:00  -             wanted   llama  warm on 2 of 2: n1, n2",
    ]


def test_what_will_be_late_is_said_with_what_would_fix_it_and_by_the_exit_code(tmp_path: Path) -> None:
    code, shown = run(tmp_path, FILE + LATE)
    assert code == 1
    assert "big in default: Late (TooSoon) on n1" in shown
    assert "late by 8 min 32 s; it would help: 2.71 GB/s through the link of n1" in shown
    _, text = run(tmp_path, FILE + LATE, "--json")
    said = json.loads(text)
    assert said["demand"][2]["lateBySeconds"] == 512.0
    assert said["demand"][2]["fix"] == {"remedy": "Rate", "amount": 812e9 / 300}
    line = {"at": "2026-11-27T06:13:32Z", "node": "n1", "what": "warm", "type": "Model", "model": "big", "note": None}
    assert line in said["timeline"]


IMAGES = """
now: 2026-11-27T06:00:00Z
models: {llama: 120G}
images: {llama: 6G, other: 90G}
nodes:
- {name: n1, budget: 1T, rate: 1G, images: {budget: 100G, rate: 100M, warm: [other]}}
- {name: n2, budget: 1T, rate: 1G}
demand:
- {model: llama, readyBy: +1h, duration: 1h, copies: 2}
- {image: llama, readyBy: +1h, duration: 1h}
- {image: other, readyBy: +30s, duration: 1h}
"""


def test_images_are_played_in_their_own_room_beside_models_and_are_told_apart(tmp_path: Path) -> None:
    code, text = run(tmp_path, IMAGES)
    assert code == 0
    assert text.splitlines()[1:6] == [
        "2026-11-27T06:00:00  n1            begins   llama",
        "2026-11-27T06:00:00  n1            begins   image llama",
        "2026-11-27T06:00:00  n2            begins   llama",
        "2026-11-27T06:00:30  -             wanted   image other  warm on 1 of 1: n1",
        "2026-11-27T06:01:00  n1            warm     image llama",
    ]
    said = json.loads(run(tmp_path, IMAGES, "--json")[1])
    assert [(one["type"], one["model"], one["nodes"]) for one in said["demand"]][1:] == [
        ("Image", "image llama", ["n1"]),
        ("Image", "image other", ["n1"]),
    ]
    assert {one["type"] for one in said["timeline"] if one["model"] == "llama"} == {"Model"}
    late = IMAGES.replace("budget: 100G", "budget: 95G")
    code, text = run(tmp_path, late)
    assert code == 1
    assert "image llama in default: OnTime" not in text


def test_images_have_a_row_of_their_own_in_a_picture() -> None:
    chart = chart_of(read_rehearsal(IMAGES, "f", 0.0).play(86_400))
    assert chart.rows == ("n1", "n1 images", "n2")
    assert {(bar.row, bar.artifact) for bar in chart.bars} == {
        ("n1", "llama"),
        ("n1 images", "image llama"),
        ("n2", "llama"),
    }
    assert {(mark.row, mark.artifact, mark.late_by_s) for mark in chart.marks if mark.row == "n1 images"} == {
        ("n1 images", "image llama", 0.0),
        ("n1 images", "image other", 0.0),
    }
    assert chart.idle == 0


def test_what_costs_an_eviction_begins_late_and_the_timeline_names_what_goes() -> None:
    text = """
now: 2026-11-27T06:00:00Z
models: {old: 90G, new: 60G}
nodes: [{name: n1, budget: 100G, rate: 1G, warm: [old]}]
demand:
- {model: old, readyBy: 2026-11-27T06:00:00Z, duration: 30m}
- {model: new, readyBy: +1h, duration: 1h}
"""
    read = read_rehearsal(text, "f", 0.0)
    said = [(round(line.at - read.now), line.deed, line.artifact) for line in read.play(86_400).lines]
    assert said == [
        (1800, Deed.OVER, "old"),
        (3516, Deed.GONE, "old"),  # 60 s of transfer and 5 to publish, a third more
        (3516, Deed.BEGINS, "new"),
        (3576, Deed.WARM, "new"),
        (3600, Deed.WANTED, "new"),
        (7200, Deed.OVER, "new"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "models: {a: 1G}\nnodes: []\ndemand: [{model: b}]",
        "models: {a: 1G}\nnodes: [{name: n, budget: 1G}, {name: n, budget: 1G}]\ndemand: []",
        "models: {a: 1G}\nnodes: [{name: n, budget: much}]\ndemand: []",
        "models: {a: 1G}\nnodes: []\ndemand: [{model: a, readyBy: tomorrow}]",
        "models: {a: 1G}\nnodes: []\ndemand: [{model: a, readyBy: 2026-11-27T08:00:00}]",
        "models: {a: 1G}\nnodes: []\ndemand: [{model: a, colour: red}]",
        "images: {a: 1G}\nnodes: [{name: n, budget: 1G}]\ndemand: [{image: a, nodes: [n]}]",
        "images: {a: 1G}\nnodes: [{name: n, budget: 1G, images: {budget: 1G, warm: [b]}}]\ndemand: []",
        "models: {a: 1G}\nimages: {a: 1G}\nnodes: []\ndemand: [{model: a, image: a}]",
        "models: {a: 1G}\nnodes: []\ndemand: [{readyBy: +5m}]",
        "models: {a: [",
        "models: [{ref: s3://models/base/, windows: [{name: base}]}]",
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_a_next_step(text: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as refused:
        run(tmp_path, text)
    assert refused.value.hint


def test_where_patience_ends_it_says_how_far_it_came() -> None:
    read, steps = read_rehearsal(FILE, "f", 0.0), iter([True, False, False, False])
    played = read.play(86_400, goes_on=lambda: next(steps))
    assert played.plan.verdicts.keys() == {one.id for one in read.demands}
    assert read.now < played.until < read.now + 86_400
    assert list(shown(played))[-1].startswith("note: played until 2026-11-27T06:0")


@pytest.mark.parametrize(
    "words", [[], ["-f", "{file}", "--from-cluster"], ["-f", "{file}", "--ahead", "0s"], ["-f", "{file}", "--ahead", "x"]]
)
def test_a_command_that_says_two_things_or_none_is_refused(words: list[str], tmp_path: Path) -> None:
    (file := tmp_path / "fleet.yaml").write_text(FILE)
    made = CliRunner().invoke(plan, ["--dry-run", *(word.format(file=file) for word in words)])
    assert made.exit_code == 2
    assert "Error:" in made.output


_VALUES = (
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.sampled_from(["a", "n", "1G", "+1h", "1h", "2026-01-01T00:00:00Z"])
)
_KEYS = st.sampled_from(["name", "model", "budget", "rate", "readyBy", "duration", "copies", "nodes", "boundTo", "warm"])
_ROWS = st.lists(st.dictionaries(_KEYS, _VALUES | st.lists(_VALUES, max_size=2), max_size=6), max_size=3)


@given(_ROWS, _ROWS, st.dictionaries(st.sampled_from(["a", "b"]), _VALUES, max_size=2))
def test_whatever_a_file_holds_it_is_played_or_refused(nodes: object, demand: object, models: object) -> None:
    text = yaml.safe_dump({"nodes": nodes, "demand": demand, "models": models})
    try:
        read = read_rehearsal(text, "f", 1e9)
    except Misconfigured as exc:
        assert exc.hint
        return
    played = read.play(86_400)
    assert played.plan.verdicts.keys() == {one.id for one in read.demands}
    assert json.dumps(as_json(played))
    chart = chart_of(played)
    assert all(chart.begins <= bar.begins <= bar.ends <= chart.ends for bar in chart.bars)
    assert {bar.row for bar in chart.bars} | {mark.row for mark in chart.marks} <= set(chart.rows)
