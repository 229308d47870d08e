"""The index: what it is told of a blob it knows whole, or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from prestage.cacher.store.index import Index


def test_a_change_that_is_cut_off_in_its_middle_is_none(tmp_path: Path) -> None:
    """Else the next start would take a blob for known whose other names were lost, and never read them again."""
    index = Index(tmp_path / "index.db")
    index.add("kept", 4096, ["sha256:1"])
    with closing(sqlite3.connect(tmp_path / "index.db", isolation_level=None)) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON aliases BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
        index.add("new", 4096, ["sha256:2"])
        assert index.sizes() == {"kept": 4096}
        other.execute("DROP TRIGGER full")
        index.add("new", 4096, ["sha256:2"])
        assert index.sizes() == {"kept": 4096, "new": 4096}
        other.execute("CREATE TRIGGER full BEFORE DELETE ON aliases BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
        index.drop("kept")
        assert index.named("sha256:1") == ["kept"]
        assert "kept" in index.sizes()
    index.close()
