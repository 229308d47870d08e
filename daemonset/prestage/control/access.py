"""Whether a namespace may still read, by its own credentials, what it had resolved once. Pure.

    proved     the origin gave it to these credentials                             Verified
    refused    it said no, or the credential is gone: asked again after `confirm`  Doubted, and Revoked where it says no again
    unknown    nobody could tell: the origin is away, slow or changed              as before; asked again sooner than in a day

A refusal is confirmed, so that a Secret that is replaced, or an origin that is wrong for a moment, revokes nothing.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from prestage.api.artifacts import AccessState, SourceAccess

_MESSAGE_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class AccessTerms:
    """When it is looked at again."""

    every: datetime.timedelta = datetime.timedelta(days=1)
    """At the latest; up to a tenth sooner, so that what was resolved together is not asked for together."""
    confirm: datetime.timedelta = datetime.timedelta(minutes=10)
    """After a first no."""
    unknown: datetime.timedelta = datetime.timedelta(minutes=30)
    """After a look that told nothing; half as long as it is overdue, where that is more."""
    revoked: datetime.timedelta = datetime.timedelta(hours=1)
    """Whether it may again."""
    hurried: datetime.timedelta = datetime.timedelta(minutes=1)
    """The same where a pod waits for it."""


class Outcome(StrEnum):
    """Of one look."""

    PROVED = "proved"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """`reason`, `message`: where it was not proved. For people of the namespace."""

    outcome: Outcome
    reason: str = ""
    message: str = ""


def after(before: SourceAccess, finding: Finding, now: datetime.datetime, terms: AccessTerms) -> SourceAccess:
    """What is recorded once it was looked at."""
    now = now.replace(microsecond=0)
    if finding.outcome is Outcome.PROVED:
        return proved(before.source, now)
    said = {"reason": finding.reason, "message": finding.message[:_MESSAGE_MAX]}
    if finding.outcome is Outcome.UNKNOWN:
        return msgspec.structs.replace(before, checked_at=now, **said)
    since = before.refused_since or now
    is_confirmed = before.state is AccessState.REVOKED or now - since >= terms.confirm
    state = AccessState.REVOKED if is_confirmed else AccessState.DOUBTED
    return msgspec.structs.replace(before, state=state, checked_at=now, refused_since=since, **said)


def proved(source: str, at: datetime.datetime) -> SourceAccess:
    """It was read just now, or resolved."""
    at = at.replace(microsecond=0)
    return SourceAccess(source=source, state=AccessState.VERIFIED, verified_at=at, checked_at=at)


def due_at(row: SourceAccess, terms: AccessTerms, key: str) -> datetime.datetime:
    """When it is looked at again. `key`: spreads the days of different things."""
    if row.state is AccessState.DOUBTED:
        return row.checked_at + terms.confirm
    if row.state is AccessState.REVOKED:
        return row.checked_at + terms.revoked
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    since = row.verified_at or row.checked_at
    daily = since + terms.every * (0.9 + draw / 10)
    if row.verified_at == row.checked_at:
        return daily
    overdue = row.checked_at - since - terms.every
    return max(daily, row.checked_at + min(max(overdue / 2, terms.unknown), terms.every))


def completed(rows: Iterable[SourceAccess], sources: Sequence[str], created: datetime.datetime) -> list[SourceAccess]:
    """One row for each source, no others. What has none yet was proved when it was resolved."""
    known = {row.source: row for row in rows}
    return [known.get(source) or proved(source, created) for source in dict.fromkeys(sources)]


def revoked(rows: Sequence[SourceAccess], source: str) -> SourceAccess | None:
    """The row that blocks new mounts by `source`: a StagedModel's own, a ref's by whatever Secret. None: it may be mounted.

    A name that is among the rows no more (only so many are kept) stands while any other of the namespace's does.
    """
    about = [row for row in rows if row.source == source or row.source.startswith(f"{source} ")] or list(rows)
    if about and all(row.state is AccessState.REVOKED for row in about):
        return about[0]
    return None
