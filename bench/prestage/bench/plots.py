"""Results as PNG. matplotlib is imported when a plot is drawn, never before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prestage.bench import palette
from prestage.bench.fetch import FetchResult
from prestage.bench.rivals.known import OURS
from prestage.bench.rounds import Summary
from prestage.bench.start import COLD, PHASES, StartResult
from prestage.bench.tables import ratio, seconds
from prestage.cacher.cli.terminal import human_bytes
from prestage.pictures.style import DPI, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DPI", "new_figure", "plain_axes", "plot_fetch", "plot_start"]

_BAR = 0.56
"""Height of a bar where the next one is 1 away."""


def plot_start(results: Sequence[StartResult], file: Path) -> None:
    """Stacked bars of where the time goes, one panel a model."""
    rows = [len(result.variants) for result in results]
    figure = new_figure(width=10, height=1.5 + sum(0.52 * count + 0.95 for count in rows))
    panels = figure.subplots(len(results), 1, squeeze=False, height_ratios=rows)[:, 0]
    for panel, result in zip(panels, results, strict=True):
        _start_panel(panel, result)
    handles = [_patch(light, label) for label, light, _ in palette.PHASES.values()]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=10)
    figure.suptitle("Time until a serving process answers", x=0.012, ha="left", fontsize=15, fontweight="bold", color=palette.INK)
    figure.supxlabel(results[0].machine.line(), x=0.012, ha="left", fontsize=8, color=palette.FAINT)
    figure.savefig(file, dpi=DPI, facecolor="white")


def plot_fetch(result: FetchResult, file: Path) -> None:
    """GB/s and CPU seconds per GB, with the range of the rounds."""
    tools = result.tools[::-1]
    figure = new_figure(width=10, height=1.9 + 0.46 * len(tools))
    left, right = figure.subplots(1, 2, sharey=True)
    _fetch_panel(left, tools, [result.gb_per_s(tool) for tool in tools], "GB/s to disk, verified (more is better)")
    _fetch_panel(right, tools, [result.cpu_s_per_gb(tool) for tool in tools], "CPU seconds per GB (less is better)")
    size, count = human_bytes(result.reference.size_bytes), result.job.target.connections
    figure.suptitle(
        f"{size} over {count} connections, medians and range of {result.job.rounds} rounds",
        x=0.012,
        ha="left",
        fontsize=14,
        fontweight="bold",
        color=palette.INK,
    )
    figure.supxlabel(result.machine.line(), x=0.012, ha="left", fontsize=8, color=palette.FAINT)
    figure.savefig(file, dpi=DPI, facecolor="white")


def _start_panel(panel: Axes, result: StartResult) -> None:
    names = result.variants[::-1]
    longest = max(result.total(name).median for name in names)
    for place, name in enumerate(names):
        left = 0.0
        for phase in PHASES:
            width = result.phase(name, phase).median
            panel.barh(place, width, left=left, height=_BAR, color=palette.PHASES[phase][1], edgecolor="white", linewidth=0.6)
            left += width
        _label_bar(panel, result, name, place=place, at=left + longest * 0.012)
    panel.set_yticks(range(len(names)), names, fontsize=11, color=palette.INK)
    panel.set_xlim(0, longest * 1.2)
    link = f", link {result.job.link_bytes_per_s * 8 / 1e9:g} Gbit/s" if result.job.link_bytes_per_s else ""
    title = f"{result.job.ref}  ({human_bytes(result.stage.bytes)}{link})"
    panel.set_title(title, loc="left", fontsize=11, color=palette.INK, pad=8)
    plain_axes(panel, "seconds, medians")


def _label_bar(panel: Axes, result: StartResult, name: str, *, place: int, at: float) -> None:
    text = seconds(result.total(name).median)
    found = result.speedup(name) if name != COLD else None
    panel.text(at, place, text, va="center", fontsize=10.5, color=palette.INK)
    if found is not None:
        sooner = f"{ratio(found[0].median)} sooner" + (" (noisy)" if found[1].noisy else "")
        panel.annotate(
            sooner,
            (at, place),
            xytext=(46, 0),
            textcoords="offset points",
            va="center",
            fontsize=10.5,
            fontweight="bold",
            color=palette.PHASES["first_use"][1],
        )


def _fetch_panel(panel: Axes, tools: Sequence[str], values: Sequence[Summary], title: str) -> None:
    longest = max(value.high for value in values)
    for place, (tool, value) in enumerate(zip(tools, values, strict=True)):
        colour = palette.OURS[0] if tool == OURS else palette.RIVAL[0]
        panel.barh(place, value.median, height=_BAR, color=colour)
        panel.plot([value.low, value.high], [place, place], color=palette.INK, linewidth=1.1, solid_capstyle="butt")
        weight = "bold" if tool == OURS else "normal"
        panel.text(value.high + longest * 0.02, place, f"{value.median:.2f}", va="center", fontsize=10.5, fontweight=weight)
    panel.set_yticks(range(len(tools)), tools, fontsize=11, color=palette.INK)
    panel.set_xlim(0, longest * 1.16)
    panel.set_title(title, loc="left", fontsize=11, color=palette.INK, pad=8)
    plain_axes(panel, "")


def _patch(colour: str, label: str) -> object:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
