"""What the images container did since it began. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from prestage.images.shelf import ShelfRow
from prestage.images.stager import StagedImage
from prestage.images.use import Use

DONE = "done"


@dataclass(slots=True)
class Tally:
    """Counts only: no image is named."""

    ended: Counter[str] = field(default_factory=Counter)
    """Stages by outcome: `done`, or the kind of their error."""
    fetched_bytes: int = 0
    yielded: int = 0
    released: int = 0
    wasted_bytes: Counter[Use] = field(default_factory=Counter)
    """Of images that are gone: staged, and used by nobody."""

    def staged(self, image: StagedImage) -> None:
        """A stage is done."""
        self.ended[DONE] += 1
        self.fetched_bytes += image.fetched_bytes
        self.yielded += image.yielded

    def failed(self, kind: str) -> None:
        """A stage has ended otherwise."""
        self.ended[kind] += 1

    def let_go(self, row: ShelfRow | None) -> None:
        """An image is gone. `row`: as it was last seen."""
        self.released += 1
        if row is None or row.state != "warm" or row.use is Use.USED:
            return
        self.wasted_bytes[row.use] += row.wasted_bytes if row.use is Use.MOVED else row.size_bytes
