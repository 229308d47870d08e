"""Colours of plots and report: told apart by eyes that confuse red and green, on light and on dark ground."""

from __future__ import annotations

from prestage.pictures.style import FAINT, GRID, INK

__all__ = ["FAINT", "GRID", "INK", "OURS", "PHASES", "RIVAL"]

PHASES = {
    "import": ("Import", "#8b95a7", "#94a0b5"),
    "fetch": ("Fetch", "#e8590c", "#ff8a4c"),
    "load": ("Load", "#1c7ed6", "#4dabf7"),
    "first_use": ("First use", "#2b8a6e", "#4fc3a1"),
}
"""Phase -> its label, its colour on light ground, on dark ground."""
OURS = ("#1c7ed6", "#4dabf7")
RIVAL = ("#a5adba", "#6b7688")
