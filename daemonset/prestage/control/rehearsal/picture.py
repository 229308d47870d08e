"""A chart as PNG. matplotlib is imported when it is drawn, never before."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prestage.cacher.errors import Misconfigured
from prestage.cacher.quantities import human_seconds
from prestage.control.rehearsal.bars import NOWHERE, Bar, Chart, Mark
from prestage.pictures.style import DPI, FAINT, INK, LATE, SERIES, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN: Final = 11.0
_ROW_IN: Final = 0.42
_BAR: Final = 0.5
"""Height of a bar where the next row is 1 away."""
_LETTER: Final = 0.0095
"""Width of a letter in a bar, as a share of the whole axis."""
_NAMED_MAX: Final = 8
"""Models in the legend; a ninth shares the colour of the first, and has its name in its bar."""


def draw(chart: Chart, file: Path, *, name: Callable[[str], str], source: str) -> None:
    """Replaces `file` in one step. `name`: what people call an artifact. `source`: what was rehearsed."""
    colours = _colours(chart)
    columns = _columns([_short(name(artifact)) for artifact in colours])
    rows, lines = max(2, len(chart.rows)), math.ceil((min(len(colours), _NAMED_MAX) + 2) / columns)
    heights = (0.24 * max(1, lines), _ROW_IN * rows, max(0.05, 0.24 * len(chart.sentences)))
    figure = new_figure(width=_WIDTH_IN, height=1.7 + sum(heights))
    legend, panel, words = figure.subplots(3, 1, height_ratios=heights)
    for bar in chart.bars:
        _bar(panel, chart, bar, colours[bar.artifact], name(bar.artifact))
    for row in chart.rows:
        marks = sorted((one for one in chart.marks if one.row == row), key=lambda one: one.at)
        for depth, mark in enumerate(marks):
            after = marks[depth + 1].at if depth + 1 < len(marks) else math.inf
            _mark(panel, chart, mark, colours[mark.artifact], label=name(mark.artifact), depth=depth, after=after)
    _axes(panel, chart)
    _words(words, chart.sentences)
    _head(figure, chart, source)
    legend.axis("off")
    if handles := _handles(chart, colours, name):
        placed = legend.legend(handles=handles, loc="lower left", ncols=columns, frameon=False, fontsize=9, borderaxespad=0)
        placed.set_in_layout(False)
    _save(figure, file)


def _colours(chart: Chart) -> dict[str, str]:
    artifacts = dict.fromkeys([*(bar.artifact for bar in chart.bars), *(mark.artifact for mark in chart.marks)])
    return {artifact: SERIES[place % len(SERIES)] for place, artifact in enumerate(artifacts)}


def _bar(panel: Axes, chart: Chart, bar: Bar, colour: str, label: str) -> None:
    place, late_from = chart.rows.index(bar.row), bar.late_from
    split = bar.ends if late_from is None else late_from
    panel.barh(place, split - bar.begins, left=bar.begins, height=_BAR, color=colour, linewidth=0)
    if late_from is not None:
        panel.barh(place, bar.ends - split, left=split, height=_BAR, color="white", edgecolor=LATE, hatch="////", linewidth=1.0)
    share = (bar.ends - bar.begins) / (chart.ends - chart.begins)
    most = int(share / _LETTER) - 1
    label = _label(label)
    if most >= min(len(label), 5):
        text = label if len(label) <= most else f"{label[: most - 1]}…"
        box = {"boxstyle": "round,pad=0.15", "facecolor": colour, "linewidth": 0}
        at = bar.begins + (chart.ends - chart.begins) * 0.004
        said = panel.text(at, place, text, va="center", fontsize=8.5, color="white", bbox=box if late_from is not None else None)
        said.set_in_layout(False)
    elif late_from is not None and not any(mark.row == bar.row and mark.artifact == bar.artifact for mark in chart.marks):
        _beside(panel, bar.ends, place, f"somebody waits for {label}")


def _mark(panel: Axes, chart: Chart, mark: Mark, colour: str, *, label: str, depth: int, after: float) -> None:
    """A deadline: a stroke over its row, and below the bars how long it is wanted. `depth`: how many came before in that row,
    `after`: when the next one comes."""
    place, late = chart.rows.index(mark.row), mark.late_by_s > 0
    low = place + 0.34 + 0.07 * min(depth, 3)
    panel.plot([mark.at, min(mark.until, chart.ends)], [low, low], color=colour, linewidth=2, alpha=0.5, solid_capstyle="butt")
    stroke = LATE if late else colour
    panel.plot([mark.at, mark.at], [place - 0.42, low], color=stroke, linewidth=1.6)
    panel.plot([mark.at], [place - 0.42], marker="v", markersize=6, color=stroke, clip_on=False)
    span = chart.ends - chart.begins
    if not late:
        is_covered = any(bar.row == mark.row and bar.begins <= mark.at < bar.ends for bar in chart.bars)
        if not is_covered and (min(after, chart.ends) - mark.at) / span > len(label) * _LETTER:
            _beside(panel, mark.at, place, _label(label), colour=colour)
        return
    never = mark.late_by_s == math.inf
    word = "nowhere to put it" if mark.row == NOWHERE else "never" if never else f"late by {human_seconds(mark.late_by_s)}"
    text = f"{_label(label)}: {word}"
    end = mark.at if never else min(chart.ends, mark.at + mark.late_by_s)
    fits = (chart.ends - end) / span > len(text) * _LETTER
    _beside(panel, end if fits else mark.at, place, text, is_left=not fits)


def _beside(panel: Axes, at: float, place: int, text: str, *, colour: str = LATE, is_left: bool = False) -> None:
    said = panel.annotate(
        text,
        (at, place),
        xytext=(-6 if is_left else 6, 0),
        textcoords="offset points",
        va="center",
        ha="right" if is_left else "left",
        fontsize=8.5,
        fontweight="bold" if colour == LATE else "normal",
        color=colour,
        bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "linewidth": 0, "alpha": 0.85},
        annotation_clip=False,
    )
    said.set_in_layout(False)


def _axes(panel: Axes, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter

    span = chart.ends - chart.begins
    panel.set_ylim(max(1, len(chart.rows)) - 0.4, -0.6)
    panel.set_xlim(chart.begins, chart.ends)
    panel.set_yticks(range(len(chart.rows)), [_short(row) for row in chart.rows], fontsize=10, color=INK)
    step = next((one for one in _STEPS_S if span / one <= 9), _STEPS_S[-1])
    first = math.ceil(chart.begins / step) * step
    panel.set_xticks([first + step * number for number in range(int((chart.ends - first) / step) + 1)])
    panel.xaxis.set_major_formatter(FuncFormatter(lambda moment, _: _clock(moment, span)))
    left_out = [
        f"{chart.hidden} more nodes have no row here" if chart.hidden else "",
        f"{chart.idle} nodes have nothing to fetch",
    ]
    plain_axes(panel, "UTC" + "".join(f"; {one}" for one in left_out if one and not one.startswith("0 ")))


_STEPS_S: Final = (1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)


def _clock(moment: float, span_s: float) -> str:
    said = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    if span_s <= 9 * 30:
        return said.strftime("%H:%M:%S")
    return said.strftime("%H:%M") if span_s <= 9 * 7200 and said.hour + said.minute else said.strftime("%d %b %H:%M")


def _words(panel: Axes, sentences: Sequence[str]) -> None:
    panel.axis("off")
    for place, sentence in enumerate(sentences):
        text = sentence if len(sentence) <= 165 else f"{sentence[:164]}…"
        height = 1 - place / max(1, len(sentences))
        said = panel.text(0, height, text, va="top", fontsize=8.5, color=INK, transform=panel.transAxes)
        said.set_in_layout(False)


def _head(figure: Figure, chart: Chart, source: str) -> None:
    moment = datetime.datetime.fromtimestamp(chart.begins, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    figure.suptitle(chart.title, x=0.012, ha="left", fontsize=15, fontweight="bold", color=INK)
    figure.supxlabel(f"{source}, rehearsed from {moment} on", x=0.012, ha="left", fontsize=8, color=FAINT)


def _handles(chart: Chart, colours: dict[str, str], name: Callable[[str], str]) -> list[object]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    named = list(colours.items())[:_NAMED_MAX]
    handles: list[object] = [Patch(facecolor=colour, label=_short(name(artifact))) for artifact, colour in named]
    if any(bar.late_from is not None for bar in chart.bars):
        handles.append(Patch(facecolor="white", edgecolor=LATE, hatch="////", label="somebody waits"))
    if chart.marks:
        handles.append(Line2D([], [], color=FAINT, marker="v", markersize=6, linestyle="none", label="must be ready"))
    return handles


def _columns(labels: Sequence[str]) -> int:
    """Of the legend."""
    return max(1, min(4, 100 // (max([14, *map(len, labels)]) + 9)))


def _label(text: str) -> str:
    """The end of a long ref, without its revision: it tells more than whose it is."""
    return text if len(text) <= 20 else text.rpartition("/")[2].partition("@")[0]


def _short(text: str) -> str:
    """Both ends tell more than the beginning."""
    return text if len(text) <= 34 else f"{text[:16]}…{text[-17:]}"


def _save(figure: Figure, file: Path) -> None:
    try:
        handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as out:
                figure.savefig(out, format="png", dpi=DPI, facecolor="white")
            Path(part).chmod(0o644)
            Path(part).replace(file)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(part).unlink()
    except OSError as exc:
        raise Misconfigured(f"cannot write {file}: {exc}", hint="name a file in a directory that you may write to") from exc
