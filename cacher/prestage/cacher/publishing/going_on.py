"""Which unfinished upload of an object holds a beginning of a file, and what of it need not be sent again. Pure.

S3 says of an unfinished upload which parts it has, of how many bytes and with which checksum, not whose it is nor what it was
begun for. So the parts decide: every one that is there must be a part of this file. One that has another part was begun for
other bytes, one without parts has nothing to go on with; both are stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.cacher.publishing.contents import Contents

CHECKSUM: Final = "CRC64NVME"
TYPE: Final = "FULL_OBJECT"


@dataclass(frozen=True, slots=True)
class PartThere:
    """A part that S3 has."""

    size_bytes: int
    checksum: str | None
    """None: the server keeps none. Such a part proves nothing."""
    etag: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that was begun and neither completed nor aborted."""

    id: str
    checksum: str
    """Its algorithm and type, as S3 says; empty where it says nothing."""
    parts: Mapping[int, PartThere]


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do about the unfinished uploads of one object."""

    upload: str | None
    """Go on with this one; None: begin one."""
    have: Mapping[int, PartThere]
    """Its parts that need not be sent."""
    stale: tuple[str, ...]
    """To be aborted."""


def choose(contents: Contents, found: Iterable[Unfinished]) -> Choice:
    """The one with most of the file in it, of equals the first by name; all others are stale."""
    uploads = sorted(found, key=lambda upload: upload.id)
    fitting = [upload for upload in uploads if _is_beginning(upload, contents)]
    best = max(fitting, key=lambda upload: sum(part.size_bytes for part in upload.parts.values()), default=None)
    stale = tuple(upload.id for upload in uploads if upload is not best)
    return Choice(best.id, best.parts, stale) if best is not None else Choice(None, {}, stale)


def _is_beginning(upload: Unfinished, contents: Contents) -> bool:
    ours = {part.number: (part.size_bytes, part.checksum) for part in contents.parts}
    theirs = {number: (part.size_bytes, part.checksum) for number, part in upload.parts.items()}
    return upload.checksum == f"{CHECKSUM} {TYPE}" and bool(theirs) and theirs.items() <= ours.items()
