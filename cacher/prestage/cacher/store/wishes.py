"""What an agent was asked to stage and has not done yet: files, so that a restart goes on with it.

wishes/<id>.json    one wish; gone when it is done, given up or taken back
wishes/paused       there while everything is paused
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import rfc8785

from prestage.cacher.store.disk import Disk, write_file
from prestage.cacher.store.layout import Layout

FORMAT = 1


@dataclass(frozen=True, slots=True)
class KeptWish:
    """One wish as it lies on disk. Texts and numbers: what they mean is the agent's."""

    ref: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    priority: int = 10
    is_paused: bool = False
    is_kept: bool = True
    """To be done for nobody too; else whoever waits must ask again after a restart."""

    @property
    def id(self) -> str:
        """The same for the same files of the same ref, however urgent: 16 hex digits."""
        return hashlib.sha256(rfc8785.dumps([self.ref, list(self.include), list(self.exclude)])).hexdigest()[:16]


class Wishes:
    """The wishes of one store. The owner's."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout, self._disk = layout, disk

    def keep(self, wish: KeptWish) -> None:
        """Write or replace; durable on return."""
        document = {
            "format": FORMAT,
            "ref": wish.ref,
            "include": list(wish.include),
            "exclude": list(wish.exclude),
            "priority": wish.priority,
            "paused": wish.is_paused,
            "keep": wish.is_kept,
        }
        write_file(self._disk, self._layout.wishes / f"{wish.id}.json", json.dumps(document).encode(), private=True)

    def drop(self, wish: KeptWish) -> None:
        """Forget; idempotent, durable."""
        self._disk.unlink(self._layout.wishes / f"{wish.id}.json")
        self._disk.sync_directory(self._layout.wishes)

    def all(self) -> Iterator[KeptWish]:
        """Every wish that can be read; a damaged one is passed over: whoever asked asks again."""
        for path in sorted(self._layout.wishes.glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                document = json.loads(path.read_bytes())
                include, exclude = tuple(map(str, document["include"])), tuple(map(str, document["exclude"]))
                is_paused, is_kept = bool(document["paused"]), bool(document.get("keep", True))
                wish = KeptWish(str(document["ref"]), include, exclude, int(document["priority"]), is_paused, is_kept)
                if document["format"] == FORMAT and wish.id == path.stem:
                    yield wish

    @property
    def are_paused(self) -> bool:
        """Everything is."""
        return (self._layout.wishes / "paused").exists()

    def pause(self) -> None:
        """Durable."""
        write_file(self._disk, self._layout.wishes / "paused", b"", private=True)

    def resume(self) -> None:
        """Durable; idempotent."""
        self._disk.unlink(self._layout.wishes / "paused")
        self._disk.sync_directory(self._layout.wishes)
