"""Colours, an empty figure, quiet axes. matplotlib is imported when something is drawn, never before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prestage.cacher.errors import Misconfigured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
INK, FAINT, GRID = "#1f2733", "#667085", "#e4e7ec"
LATE = "#c92a2a"
"""What is late or impossible; always with a word or a pattern beside it."""
SERIES = ("#1c7ed6", "#2b8a6e", "#7048b6", "#b7791f", "#0b7285", "#8d5a97", "#4c6a92", "#5c7c2a")
"""Told apart by eyes that confuse red and green, and none of them like LATE."""


def new_figure(*, width: float, height: float) -> Figure:
    """Inches.

    Raises:
        Misconfigured: matplotlib is an extra, and is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as exc:
        raise Misconfigured("matplotlib is not installed", hint="pip install 'prestage[bench]'") from exc
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, hspace=0.03, wspace=0.03))
    FigureCanvasAgg(figure)
    return figure


def plain_axes(panel: Axes, label: str) -> None:
    """A grid along x, and nothing else."""
    panel.set_xlabel(label, fontsize=9, color=FAINT, loc="left")
    panel.tick_params(axis="x", labelsize=9, colors=FAINT, length=0)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right", "bottom", "left"):
        panel.spines[side].set_visible(False)
