"""What the owner does at start, before anything else: finish or undo what was cut off. Never removes what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prestage.cacher.digests import ArtifactId
from prestage.cacher.store.disk import Disk, remove_tree
from prestage.cacher.store.eviction import Eviction
from prestage.cacher.store.holds import Holds
from prestage.cacher.store.layout import FOLDERS, Layout
from prestage.cacher.store.views import GONE, NEW, Views

_KNOWN_FILES = ("format", "owner", "gate", "index.db", "index.db-journal", "lost+found")


def recover(layout: Layout, disk: Disk, *, views: Views, holds: Holds, eviction: Eviction) -> list[str]:
    """Bring the tree to a state between two steps. Returns what was found that is not ours, for a warning."""
    for folder in FOLDERS:
        disk.make_directory(layout.root / folder)
    for leftover in [*layout.views.glob(f"{NEW}*"), *_new_files(layout)]:
        remove_tree(disk, leftover)
    eviction.finish_all()
    for ingest in list(layout.ingests.iterdir()):
        if _is_hex(ingest.name, 64) and not (ingest / "meta").exists():
            remove_tree(disk, ingest)
    _metas_without_blob(layout, disk)
    holds.drop_dead()
    for view in layout.views.iterdir():
        if _is_hex(view.name, 64):
            artifact = ArtifactId(f"sha256:{view.name}")
            if not holds.live(artifact):
                views.remove_old(artifact)
    return list(_foreign(layout))


def _new_files(layout: Layout) -> Iterator[Path]:
    """Small files that were cut off before their rename."""
    for folder in (layout.root, layout.manifests, layout.refs):
        yield from folder.glob(".*.new")
    for folder in (layout.blobs, layout.ingests, layout.holds):
        yield from folder.glob("*/.*.new")


def _metas_without_blob(layout: Layout, disk: Disk) -> None:
    for shelf in layout.blobs.iterdir():
        if not shelf.is_dir():
            continue
        names = {entry.name for entry in shelf.iterdir()}
        for name in names:
            if name.endswith(".meta") and name.removesuffix(".meta") not in names:
                disk.unlink(shelf / name)


def _foreign(layout: Layout) -> Iterator[str]:
    for entry in layout.root.iterdir():
        if entry.name not in FOLDERS and entry.name not in _KNOWN_FILES:
            yield f"{entry} is not ours; left alone"
    for entry in layout.blobs.iterdir():
        if not _is_hex(entry.name, 2) or not entry.is_dir():
            yield f"{entry} is not ours; left alone"
    for entry in layout.views.iterdir():
        if not _is_hex(entry.name, 64) and not entry.name.startswith((NEW, GONE)):
            yield f"{entry} is not ours; left alone"


def _is_hex(name: str, digits: int) -> bool:
    return len(name) == digits and all(letter in "0123456789abcdef" for letter in name)
