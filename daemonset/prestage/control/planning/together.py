"""What the services share that run under one leadership."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from prestage.control.demand.world import World
from prestage.control.planning.board import Board
from prestage.kube.events import Recorder
from prestage.kube.ports import Api

Reacted = Callable[[str], Callable[[float], None]]
"""For each kind of write: where it says how many seconds it came after the change that it answers."""
UNMEASURED: Final[Reacted] = lambda write: lambda seconds: None  # noqa: E731  a default


@dataclass(frozen=True, slots=True)
class Together:
    """See the fields."""

    api: Api
    world: World
    """Mirrors; `listen` and `news` tell of changes."""
    board: Board
    """The last plan."""
    recorder: Recorder
    namespace: str
    """Ours."""
    reacted: Reacted = UNMEASURED


Service = Callable[[Together], Awaitable[None]]
"""Runs while we lead, and never returns by itself."""
