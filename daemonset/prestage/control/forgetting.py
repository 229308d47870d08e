"""Records of pod templates whose owner nobody sees any more: marked first, dropped after a while. Pure.

    seen          a pod, a workload or a StagedModel of that UID is there: the record stays, a mark goes
    unseen        marked with the time; dropped when the mark is old enough, by the broker's clock
    how old       `hashed`: a controller of a kind that nobody here follows may have no pods for weeks, and be scaled up again
                  `alone`:  without a hash it is a Job or a pod by itself, which never comes again, or a controller between pods
                  `pressed` for those without a hash, once an Artifact has nearly as many records as it may

Nothing else is ever dropped, least of all what a pod has, running or not.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from prestage.api.artifacts import TemplateUse
from prestage.control.templates import NO_HASH, controller_of
from prestage.kube.ports import Object, uid_of

TEMPLATES_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class RecordTerms:
    """How long a record outlives its owner."""

    hashed: datetime.timedelta = datetime.timedelta(days=30)
    alone: datetime.timedelta = datetime.timedelta(days=1)
    pressed: datetime.timedelta = datetime.timedelta(hours=1)


def after_look(
    rows: Sequence[TemplateUse], unseen: Collection[str], now: datetime.datetime, terms: RecordTerms
) -> list[TemplateUse]:
    """`unseen`: UIDs of owners that are nowhere; all others are taken for seen. Equal to `rows` where nothing changes."""
    is_pressed = len(rows) > TEMPLATES_MAX * 3 // 4
    return [kept for row in rows if (kept := _kept(row, unseen, now, terms, is_pressed=is_pressed)) is not None]


def living(pods: Iterable[Object], others: Iterable[Object]) -> set[str]:
    """UIDs of all that is there, and of who controls it. `others`: workloads, StagedModels."""
    found = set[str]()
    for seen in (*pods, *others):
        found.add(uid_of(seen))
        if (controller := controller_of(seen)) is not None:
            found.add(str(controller.get("uid", "")))
    return found


def _kept(
    row: TemplateUse, unseen: Collection[str], now: datetime.datetime, terms: RecordTerms, *, is_pressed: bool
) -> TemplateUse | None:
    if row.uid not in unseen:
        return row if row.unseen_since is None else msgspec.structs.replace(row, unseen_since=None)
    if row.unseen_since is None:
        return msgspec.structs.replace(row, unseen_since=now.replace(microsecond=0))
    alone = terms.pressed if is_pressed else terms.alone
    return None if now - row.unseen_since >= (alone if row.hash == NO_HASH else terms.hashed) else row
