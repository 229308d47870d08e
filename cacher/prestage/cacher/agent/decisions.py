"""What the agent decided, on disk: why something is here, or is not, is answered over restarts too.

<root>/decisions/now, <root>/decisions/before     a line each: CRC-32 of the rest as 8 hex digits, a space, one JSON object

`now` is appended to. Once it has SEGMENT_BYTES it becomes `before`, and the `before` there was goes: never more than two of them.
A line that was torn (`kill -9`, a full disk) or damaged is passed over, and no other with it. Nothing waits for the disk: a power
cut may take what the kernel had not written. Whoever owns the store writes; nobody else does.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from prestage.cacher.agent.logs import log

Entry = dict[str, str | int | float | None]
"""`at` (epoch), `event`, `artifact`, `ref`, and what belongs to the event."""
SEGMENT_BYTES: Final = 256 << 10
TEXT_MAX: Final = 400
"""Of one field: messages of origins can be long."""
WAITING_MAX: Final = 2000
"""Entries that wait for a disk that does not answer; the oldest are lost."""


def line_of(entry: Entry) -> bytes:
    """As it is written."""
    short = {name: value[:TEXT_MAX] if isinstance(value, str) else value for name, value in entry.items()}
    text = json.dumps(short, ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def entries_in(data: bytes) -> Iterator[Entry]:
    """Those that are whole, in their order."""
    for line in data.split(b"\n"):
        sum_, _, text = line.partition(b" ")
        if sum_ != b"%08x" % zlib.crc32(text):
            continue
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("at"), int | float) and isinstance(found.get("event"), str):
            yield {name: value for name, value in found.items() if value is None or isinstance(value, str | int | float)}


class DecisionLog:
    """Blocks: small files."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "decisions"
        self._now, self._before = self._folder / "now", self._folder / "before"
        self._is_torn = True
        """What is there may end in the middle of a line: the next one begins on its own."""

    def load(self) -> list[Entry]:
        """Oldest first; nothing where it cannot be read."""
        found = list[Entry]()
        for path in (self._before, self._now):
            try:
                with path.open("rb") as file:
                    found += entries_in(file.read(2 * SEGMENT_BYTES))
            except OSError:
                continue
        return found

    def append(self, entries: Iterable[Entry]) -> None:
        """Whole lines or, where the disk ends in the middle, one that is passed over.

        Raises:
            OSError: the disk did not take them.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        data = b"".join(map(line_of, entries))
        descriptor = os.open(self._now, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            whole = b"\n" + data if self._is_torn and os.fstat(descriptor).st_size else data
            self._is_torn = True
            self._is_torn = os.write(descriptor, whole) < len(whole)
            is_full = os.fstat(descriptor).st_size >= SEGMENT_BYTES
        finally:
            os.close(descriptor)
        if is_full:
            self._now.replace(self._before)


class Keeper:
    """Appends in a thread of its own, as many at a time as came meanwhile."""

    def __init__(self, decisions: DecisionLog) -> None:
        self._decisions = decisions
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prestage-decisions")
        self._lock = threading.Lock()
        self._waiting: list[Entry] = []
        self._is_writing = self._has_failed = False

    def __call__(self, entry: Entry) -> None:
        """Returns at once. After `close` it is lost."""
        with self._lock:
            self._waiting = [*self._waiting[-WAITING_MAX + 1 :], entry]
            if self._is_writing:
                return
            self._is_writing = True
        try:
            self._thread.submit(self._write)
        except RuntimeError:
            return

    def close(self) -> None:
        """What came is on its way to the disk."""
        self._thread.shutdown(wait=True)

    def _write(self) -> None:
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                if not waiting:
                    self._is_writing = False
                    return
            try:
                self._decisions.append(waiting)
                self._has_failed = False
            except OSError as exc:
                if not self._has_failed:
                    log("decisions_not_kept", level=logging.WARNING, fields={"message": str(exc), "lost": len(waiting)})
                self._has_failed = True
