"""What is declared for later, in one form whatever said it: these models, there, for so many, in these windows. Pure.

    schedules.py, cron_jobs.py, floors.py  ─▶  Declaration with Wants  ─▶  demands of the windows that are open, or next

A window that is further off than HORIZON_S is no demand yet: it is in the status only. One namespace has at most EACH_MAX
demands, the soonest first, and all of them together ALL_MAX: who wants less than the rest is never cut for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from prestage.api.schedules import TargetRef
from prestage.api.values import LabelSelector
from prestage.calendar.windows import Opening, Openings, Window
from prestage.control.demand.feasibility import Needs
from prestage.control.demand.records import Question
from prestage.kube.events import Subject
from prestage.planner.demands import ToldBy

HORIZON_S: Final = 7 * 86400.0
EACH_MAX: Final = 1000
ALL_MAX: Final = 10_000
OBJECTS_MAX: Final = 500
"""Of one kind and namespace that are looked at, the oldest first."""
ALWAYS: Final = "always"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a declaration is not, or not wholly, acted on. `condition`: which of a schedule's it is about."""

    condition: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where pods or copies may be. `names` None: wherever `needs` allow. `uid`: of the workload, whose pods' nodes count."""

    needs: Needs | None = None
    names: frozenset[str] | None = None
    uid: str = ""
    copies: int | None = None
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Asked:
    """One model or image of a want. `name`: in the status of who said it. `architecture`: of an image, where it can run."""

    name: str
    question: Question
    architecture: str = ""

    @property
    def key(self) -> str:
        """Of its demand: an image has one for each architecture."""
        return f"{self.name}@{self.architecture}" if self.architecture else self.name


@dataclass(frozen=True, slots=True)
class Want:
    """In one window."""

    window: str
    openings: Openings
    models: tuple[Asked, ...]
    place: Place
    count: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Which nodes the autoscaler is asked for: with room for pods of a workload, else by their labels. `boot_s`: as said."""

    target: TargetRef | None
    selector: LabelSelector | None
    boot_s: float | None = None

    @property
    def alike(self) -> bytes:
        """The same for what would get the same nodes."""
        return msgspec.json.encode(self.selector if self.target is None else self.target, order="deterministic")


@dataclass(frozen=True, slots=True)
class Declaration:
    """By one object."""

    subject: Subject
    source: ToldBy
    wants: tuple[Want, ...] = ()
    problems: tuple[Problem, ...] = ()
    priority: int = 0
    keeps: tuple[Asked, ...] = ()
    """Suspended: what is warm of it stays, nothing is begun."""
    chance: float = 1.0
    """That its windows are used."""
    capacity: Shape | None = None
    """It asks for nodes too."""

    @property
    def namespace(self) -> str:
        """Whose."""
        return self.subject.namespace or ""


@dataclass(frozen=True, slots=True)
class Due:
    """One demand of a declaration, before it is known what its model is."""

    id: str
    declaration: Declaration
    want: Want
    asked: Asked
    opening: Opening

    @property
    def ready_by(self) -> float | None:
        """None: now, and always."""
        return None if self.opening.ends == math.inf else self.opening.begins


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is planned for. `cut`: UID of a declaration to how many of its demands are left out."""

    dues: tuple[Due, ...] = ()
    cut: Mapping[str, int] = field(default_factory=dict)
    changes_at: float = math.inf
    """When it will be another, though nothing happened."""


@dataclass(slots=True)
class Remembered:
    """Openings of windows, looked at again only when they change or the clock went back."""

    _seen: dict[tuple[str, str, Window], tuple[float, Openings]] = field(default_factory=dict)
    _used: dict[tuple[str, str, Window], tuple[float, Openings]] = field(default_factory=dict)

    def at(self, uid: str, name: str, window: Window, now: float) -> Openings:
        """`uid`, `name`: whose window it is."""
        key = uid, name, window
        found = self._seen.get(key)
        if found is None or not found[0] <= now < found[1].changes_at:
            found = now, window.at(now)
        self._used[key] = found
        return found[1]

    def turn(self) -> None:
        """What was not asked for since the last time is forgotten."""
        self._seen, self._used = self._used, {}


def dues(declarations: Iterable[Declaration], now: float) -> Chosen:
    """The demands of all windows that are open, or next within the horizon."""
    by_namespace: dict[str, list[Due]] = {}
    changes_at = math.inf
    for declaration in declarations:
        for want in declaration.wants:
            changes_at = min(changes_at, want.openings.changes_at)
            for opening in (want.openings.open, want.openings.next):
                if opening is None:
                    continue
                if opening.begins - now > HORIZON_S:
                    changes_at = min(changes_at, opening.begins - HORIZON_S)
                    continue
                when = ALWAYS if opening.ends == math.inf else f"{opening.begins:.0f}"
                for asked in want.models:
                    name = f"{declaration.subject.uid}/{want.window}/{asked.key}/{when}"
                    by_namespace.setdefault(declaration.namespace, []).append(Due(name, declaration, want, asked, opening))
    kept, cut = fairly(by_namespace)
    return Chosen(tuple(kept), cut, changes_at)


def fairly(by_namespace: Mapping[str, Sequence[Due]]) -> tuple[list[Due], dict[str, int]]:
    """Each namespace the same most, so that all of them together are few enough."""
    most = share({namespace: min(len(found), EACH_MAX) for namespace, found in by_namespace.items()}, ALL_MAX)
    kept, cut = list[Due](), dict[str, int]()
    for _, found in sorted(by_namespace.items()):
        if len(found) <= most:
            kept += found
            continue
        ordered = sorted(found, key=lambda due: (due.opening.begins, due.id))
        kept += ordered[:most]
        for due in ordered[most:]:
            uid = due.declaration.subject.uid
            cut[uid] = cut.get(uid, 0) + 1
    return kept, cut


def share(wanted: Mapping[str, int], total: int) -> int:
    """The largest most for each by which all together have no more than `total`; EACH_MAX where that is no bound."""
    left, count = total, len(wanted)
    for amount in sorted(wanted.values()):
        if amount * count > left:
            return left // count
        left -= amount
        count -= 1
    return EACH_MAX
