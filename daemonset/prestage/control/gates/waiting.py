"""For how long pods have had no gate but ours: their time begins when Kueue's is gone. Pure over what was seen of them.

Of a pod that was there before us nobody says when that was: at some moment between its creation and when we first saw it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prestage.control.podspec import has_other_gates
from prestage.kube.mirror import Key, key_of
from prestage.kube.ports import Object, uid_of

_SOON_S: Final = 10.0
"""A pod that is first seen so young is seen from its beginning."""


@dataclass(frozen=True, slots=True)
class Waited:
    """`least_s`: since we saw that no gate is left but ours. `most_s`: since the earliest that it may have been so."""

    least_s: float
    most_s: float

    @property
    def known_s(self) -> float | None:
        """None: nobody saw it begin."""
        return self.most_s if self.least_s == self.most_s else None


@dataclass(frozen=True, slots=True)
class _Begun:
    """By a clock that only grows, at the latest and at the earliest; None: other gates hold it."""

    uid: str
    latest_s: float | None
    earliest_s: float


class Waits:
    """Of pods that ask for models."""

    def __init__(self) -> None:
        self._begun: dict[Key, _Begun] = {}

    def note(self, pod: Object, *, at_s: float, age_s: float) -> None:
        """As it is now."""
        uid, known = uid_of(pod), self._known(pod)
        if has_other_gates(pod):
            begun = _Begun(uid, None, at_s)
        elif known is None:
            begun = _Begun(uid, at_s - age_s if age_s <= _SOON_S else at_s, at_s - age_s)
        else:
            begun = known if known.latest_s is not None else _Begun(uid, at_s, at_s)
        self._begun[key_of(pod)] = begun

    def forget(self, pod: Object) -> None:
        """It is gone."""
        self._begun.pop(key_of(pod), None)

    def of(self, pod: Object, *, at_s: float, age_s: float) -> Waited:
        """Until now."""
        if has_other_gates(pod):
            return Waited(0.0, 0.0)
        known = self._known(pod)
        if known is None or known.latest_s is None:
            return Waited(age_s if age_s <= _SOON_S else 0.0, age_s)
        return Waited(at_s - known.latest_s, at_s - known.earliest_s)

    def _known(self, pod: Object) -> _Begun | None:
        known = self._begun.get(key_of(pod))
        return known if known is not None and known.uid == uid_of(pod) else None
