"""The index: SQLite beside the tree, for what would take long to read off it. A cache: lost or damaged, it is made again.

It knows each blob's size and other digests, which file of which origin became which blob, and when artifacts were last used.
Nothing is decided by it alone: a blob it names is looked for on disk, a reuse is checked against the blob's meta.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

_SCHEMA = """
PRAGMA user_version = 1;
CREATE TABLE IF NOT EXISTS blobs (name TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aliases (digest TEXT, name TEXT, PRIMARY KEY (digest, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (id TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uses (artifact TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""


class Index:
    """Thread-safe. A failing disk or a lock held by another process makes it forget, never fail."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            for stale in (path, path.with_name(f"{path.name}-journal")):
                stale.unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=1.0)
        try:
            db.execute("PRAGMA synchronous = OFF")
            db.executescript(_SCHEMA)
            db.execute("SELECT count(*) FROM uses").fetchone()
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._lock, suppress(sqlite3.DatabaseError):
            self._db.executemany(statement, list(rows))

    def _read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.DatabaseError:
                return []

    def sync(self, names: Iterable[str], read: Callable[[str], tuple[int, Iterable[str]]]) -> int:
        """Make it agree with the blobs on disk, reading size and digests of those it does not know; returns the sum of sizes."""
        on_disk = set(names)
        with self._lock:
            rows_known = self._db.execute("SELECT name, size FROM blobs").fetchall()
            known: dict[str, int] = {str(name): int(size) for name, size in rows_known}
            gone = known.keys() - on_disk
            fresh = {name: read(name) for name in on_disk - known.keys()}
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM blobs WHERE name = ?", [(name,) for name in gone])
            self._db.executemany("DELETE FROM aliases WHERE name = ?", [(name,) for name in gone])
            self._db.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?)", [(n, size) for n, (size, _) in fresh.items()])
            rows = [(digest, name) for name, (_, digests) in fresh.items() for digest in digests]
            self._db.executemany("INSERT OR IGNORE INTO aliases VALUES (?, ?)", rows)
            self._db.execute("COMMIT")
        return sum(known[name] for name in known.keys() & on_disk) + sum(size for size, _ in fresh.values())

    def add_blob(self, name: str, size_bytes: int, digests: Iterable[str]) -> None:
        """A blob was published or learnt other digests."""
        self._write("INSERT OR REPLACE INTO blobs VALUES (?, ?)", [(name, size_bytes)])
        self._write("INSERT OR IGNORE INTO aliases VALUES (?, ?)", [(digest, name) for digest in digests])

    def drop_blob(self, name: str) -> None:
        """A blob is gone."""
        self._write("DELETE FROM blobs WHERE name = ?", [(name,)])
        self._write("DELETE FROM aliases WHERE name = ?", [(name,)])

    def named(self, digest: str) -> list[str]:
        """Blobs with this other digest, as far as is known."""
        return [name for (name,) in self._read("SELECT name FROM aliases WHERE digest = ?", digest)]

    def add_files(self, rows: Iterable[tuple[str, str]]) -> None:
        """(identity of a file at an origin, blob)."""
        self._write("INSERT OR REPLACE INTO files VALUES (?, ?)", rows)

    def file(self, identity: str) -> str | None:
        """What a file at an origin turned out to be, as far as is known."""
        return next((name for (name,) in self._read("SELECT name FROM files WHERE id = ?", identity)), None)

    def has_files(self) -> bool:
        """False right after the index was made anew."""
        return bool(self._read("SELECT 1 FROM files LIMIT 1"))

    def used(self, artifact: str, at: float) -> None:
        """An artifact was used."""
        self._write("INSERT OR REPLACE INTO uses VALUES (?, ?)", [(artifact, at)])

    def last_used(self) -> dict[str, float]:
        """When each artifact was last used."""
        return {str(artifact): float(at) for artifact, at in self._read("SELECT artifact, at FROM uses")}

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._db.close()
