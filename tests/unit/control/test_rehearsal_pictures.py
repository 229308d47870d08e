"""The picture of a rehearsal: which rows, bars and deadlines it has, and that it is a whole file or none."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from planning.worlds import NOW, World, worlds

from prestage.cacher.errors import Misconfigured
from prestage.control.rehearsal.bars import NOWHERE, ROWS_MAX, Chart, chart_of
from prestage.control.rehearsal.cli import plan
from prestage.control.rehearsal.file import read_rehearsal
from prestage.control.rehearsal.rehearsal import Rehearsal
from prestage.planner.rules import Rules

FILE = """
now: 2026-11-27T06:00:00Z
models: {llama: 141G, qwen: 28G, big: 812G, huge: 5T}
nodes:
- {name: n1, budget: 1T, rate: 1G, warm: [qwen]}
- {name: n2, budget: 500G, rate: 250M}
- {name: n10, budget: 500G, rate: 250M}
demand:
- {model: llama, readyBy: "2026-11-27T08:00:00+01:00", duration: 10h, copies: 2, nodes: [n1, n2]}
- {model: qwen, boundTo: [n1]}
"""
BIG = "- {model: big, readyBy: +5m, duration: 1h}\n"
HUGE = "- {model: huge, readyBy: +5m, duration: 1h}\n"


def chart(text: str) -> Chart:
    return chart_of(read_rehearsal(text, "f", 0.0).play(86_400))


def test_a_row_a_node_a_bar_a_transfer_a_mark_a_deadline() -> None:
    made = chart(FILE)
    assert made.rows == ("n1", "n2")
    assert (made.idle, made.hidden) == (1, 0)
    assert [(bar.row, bar.artifact, bar.ends - bar.begins, bar.late_from) for bar in made.bars] == [
        ("n1", "llama", 141.0, None),
        ("n2", "llama", 564.0, None),
    ]
    assert [(mark.row, mark.at - made.begins, mark.late_by_s) for mark in made.marks] == [
        ("n1", 3600.0, 0.0),
        ("n2", 3600.0, 0.0),
    ]
    assert (made.title, made.sentences) == ("2 of 2 on time", ())


def test_what_comes_after_its_deadline_is_late_from_there_on() -> None:
    made = chart(FILE + BIG)
    [bar] = [bar for bar in made.bars if bar.artifact == "big"]
    assert bar.late_from == made.begins + 300
    [mark] = [mark for mark in made.marks if mark.artifact == "big"]
    assert mark.late_by_s == pytest.approx(bar.ends - bar.late_from)
    assert made.title == "2 of 3 on time, 1 late"
    assert made.sentences[0].startswith("big in default: late by 8 min 32 s (TooSoon); it would help: ")


def test_what_finds_no_node_has_a_row_of_its_own() -> None:
    made = chart(FILE + HUGE)
    assert made.rows[-1] == NOWHERE
    assert [mark.late_by_s for mark in made.marks if mark.row == NOWHERE] == [math.inf]
    assert made.title == "2 of 3 on time, 1 impossible"


def test_what_a_pod_waits_for_is_late_at_once() -> None:
    made = chart(FILE.replace("{model: qwen, boundTo: [n1]}", "{model: qwen, boundTo: [n2]}"))
    [bar] = [bar for bar in made.bars if bar.artifact == "qwen"]
    assert bar.late_from == bar.begins


def test_of_too_many_nodes_the_late_ones_have_rows_and_the_rest_is_counted() -> None:
    count = ROWS_MAX + 20
    nodes = "".join(f"- {{name: n{number}, budget: 1T, rate: {'1M' if number == 57 else '1G'}}}\n" for number in range(count))
    text = f"models: {{a: 1G}}\nnodes:\n{nodes}demand: [{{model: a, readyBy: +5m, duration: 1h, copies: {count}}}]\n"
    made = chart(text)
    assert len(made.rows) == ROWS_MAX
    assert "n57" in made.rows
    assert made.rows[:3] == ("n0", "n1", "n2")
    assert made.hidden == 20


@settings(max_examples=50)
@given(worlds())
def test_every_bar_lies_in_its_chart_and_no_two_of_a_row_overlap(world: World) -> None:
    rehearsal = Rehearsal(tuple(world.demands), tuple(world.nodes), NOW, Rules(), walls=world.walls)
    made = chart_of(rehearsal.play(600))
    for row in made.rows:
        bars = sorted((bar for bar in made.bars if bar.row == row), key=lambda bar: bar.begins)
        assert all(made.begins <= bar.begins <= bar.ends <= made.ends for bar in bars)
        assert all(one.ends <= other.begins + 1e-6 for one, other in itertools.pairwise(bars))
        assert all(bar.late_from is None or bar.begins <= bar.late_from <= bar.ends for bar in bars)
    assert all(made.begins <= mark.at <= made.ends for mark in made.marks)


def drawn(folder: Path, text: str, target: Path) -> int:
    (file := folder / "fleet.yaml").write_text(text)
    made = CliRunner().invoke(plan, ["--dry-run", "-f", str(file), "--png", str(target)])
    if made.exception is not None and not isinstance(made.exception, SystemExit):
        raise made.exception
    return made.exit_code


@pytest.mark.usefixtures("fonts_are_open")
@pytest.mark.parametrize(("text", "code"), [(FILE, 0), (FILE + BIG + HUGE, 1), ("models: {}\nnodes: []\ndemand: []\n", 0)])
def test_it_is_a_png_and_nothing_beside_it(text: str, code: int, tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    assert drawn(tmp_path, text, out / "plan.png") == code
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert [one.name for one in out.iterdir()] == ["plan.png"]


@pytest.mark.usefixtures("fonts_are_open")
def test_where_it_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot write"):
        drawn(tmp_path, FILE, tmp_path / "nowhere" / "plan.png")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Misconfigured) as refused:
        drawn(tmp_path, FILE, tmp_path / "plan.png")
    assert refused.value.hint == "pip install 'prestage[bench]'"
