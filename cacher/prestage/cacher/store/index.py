"""The index: SQLite beside the tree, for what would take long to read off it. A cache: lost or damaged, it is made again.

It knows each blob's size on disk, its other digests and which files of which origins it was fetched as: all read from the metas.
It remembers when the scrubber last read a blob: lost, the blob is read again sooner.
Nothing is decided by it alone: a blob that it names is looked for on disk, a reuse is checked against the blob's meta. Only the
owner opens it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (name TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aliases (alias TEXT, name TEXT, PRIMARY KEY (alias, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS aliases_by_name ON aliases (name);
CREATE TABLE IF NOT EXISTS verified (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""
_VERSION = 1


class Index:
    """Thread-safe. A failing disk makes it forget, never fail."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError:
            self._db = self._fresh()

    def _fresh(self) -> sqlite3.Connection:
        with suppress(OSError):
            for stale in (self._path, self._path.with_name(f"{self._path.name}-journal")):
                stale.unlink(missing_ok=True)
        try:
            return _open(self._path)
        except sqlite3.DatabaseError:
            return _open(Path(":memory:"))

    def sync(self, names: Collection[str], read: Callable[[str], tuple[int, Iterable[str]]]) -> int:
        """Make it agree with the blobs on disk: `read` gives size and aliases of those it does not know. Returns all sizes."""
        try:
            with self._lock:
                return self._sync(names, read)
        except sqlite3.DatabaseError:
            with self._lock:
                self._db.close()
                self._db = self._fresh()
                return self._sync(names, read)

    def _sync(self, names: Collection[str], read: Callable[[str], tuple[int, Iterable[str]]]) -> int:
        known: dict[str, int] = dict(self._db.execute("SELECT name, size FROM blobs").fetchall())
        gone = [(name,) for name in known if name not in names]
        fresh = {name: read(name) for name in names if name not in known}
        if gone or fresh:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM blobs WHERE name = ?", gone)
            self._db.executemany("DELETE FROM aliases WHERE name = ?", gone)
            self._db.executemany("DELETE FROM verified WHERE name = ?", gone)
            self._db.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?)", [(name, row[0]) for name, row in fresh.items()])
            rows = [(alias, name) for name, (_, aliases) in fresh.items() for alias in aliases]
            self._db.executemany("INSERT OR IGNORE INTO aliases VALUES (?, ?)", rows)
            self._db.execute("COMMIT")
        return sum(known.values()) - sum(known[name] for (name,) in gone) + sum(size for size, _ in fresh.values())

    def add(self, name: str, size_bytes: int, aliases: Iterable[str]) -> None:
        """A blob was published, or learnt other digests or files."""
        self._write(
            ("INSERT OR REPLACE INTO blobs VALUES (?, ?)", [(name, size_bytes)]),
            ("INSERT OR IGNORE INTO aliases VALUES (?, ?)", [(alias, name) for alias in aliases]),
        )

    def drop(self, name: str) -> None:
        """A blob is gone."""
        tables = ("blobs", "aliases", "verified")
        self._write(*((f"DELETE FROM {table} WHERE name = ?", [(name,)]) for table in tables))  # noqa: S608 - names of ours

    def note_verified(self, name: str, at: float) -> None:
        """A blob was read whole and found right."""
        self._write(("INSERT OR REPLACE INTO verified VALUES (?, ?)", [(name, at)]))

    def verified(self) -> dict[str, float]:
        """When each blob was last read whole, in seconds since the epoch, as far as is known."""
        return {str(name): float(at) for name, at in self._read("SELECT name, at FROM verified")}

    def named(self, alias: str) -> list[str]:
        """Blobs with this other digest, or fetched as the file of this identity; as far as is known."""
        return [str(row[0]) for row in self._read("SELECT name FROM aliases WHERE alias = ?", alias)]

    def sizes(self) -> dict[str, int]:
        """What each blob takes on disk."""
        return {str(name): int(size) for name, size in self._read("SELECT name, size FROM blobs")}

    def _write(self, *changes: tuple[str, Sequence[tuple[str | int | float, ...]]]) -> None:
        """All or none: a blob that is known is not read again, so that what belongs to it must be known too."""
        with self._lock, suppress(sqlite3.DatabaseError), self._db:
            self._db.execute("BEGIN")
            for statement, rows in changes:
                self._db.executemany(statement, rows)

    def _read(self, statement: str, *values: str) -> list[tuple[str | int | float, ...]]:
        with self._lock, suppress(sqlite3.DatabaseError):
            return self._db.execute(statement, values).fetchall()
        return []

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1.0)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError("an index of another version")
        db.execute("PRAGMA synchronous = OFF")
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("SELECT name FROM blobs LIMIT 1").fetchone()
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db
