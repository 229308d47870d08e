"""What pictures leave open."""

from __future__ import annotations

import io

import pytest

from prestage.pictures.style import new_figure


@pytest.fixture(scope="session")
def fonts_are_open() -> None:
    """matplotlib keeps the fonts it has used open for the life of the process; no test leaks them."""
    figure = new_figure(width=1, height=1)
    figure.suptitle("bold", fontweight="bold")
    figure.supxlabel("plain")
    figure.savefig(io.BytesIO())
