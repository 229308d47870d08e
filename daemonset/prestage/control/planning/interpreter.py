"""How the interpreter is set in the planner's process: what it does by itself takes no turn of what is urgent."""

from __future__ import annotations

import gc
import sys
from typing import Final

_COLLECTIONS: Final = (5_000, 10, 1_000)
"""A plan makes some ten thousand objects that live until the next, and leaves no cycles: by the interpreter's own measure every
fourth was held up for 0.1 s, at 500 nodes, by a search for garbage in mirrors that have none. Young objects are looked at as
often as before for their number; all of them once in tens of millions."""
_TURN_S: Final = 0.001
"""A plan is made in a thread; whoever sends gates and conditions meanwhile waits for so long each time it was idle (5 ms by the
interpreter's own measure)."""


def settle() -> None:
    """Once, when all is imported."""
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
    sys.setswitchinterval(_TURN_S)
