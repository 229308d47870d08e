"""What the owner does before anything else: finish what was cut off, remove what was never completed, report what is not ours.

Nothing published is touched, nothing journaled is lost, and nothing that we did not make is removed. Run again after a kill in
its middle it ends the same.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from prestage.cacher.digests import ArtifactId
from prestage.cacher.store import ingest as ingests
from prestage.cacher.store.disk import make_directories, remove_tree
from prestage.cacher.store.eviction import QUARANTINED, Evictor, Parts
from prestage.cacher.store.layout import ABOVE, FOLDERS, LOCKS, SOCKET
from prestage.cacher.store.locks import gate
from prestage.cacher.store.trees import HOLD
from prestage.cacher.store.views import GONE, NEW

_HEX = re.compile(r"[0-9a-f]{64}")
_BESIDE = re.compile(r"\..+\.new")
_ROOT_FILES = {"format", "index.db", "index.db-journal", "lost+found", SOCKET, ABOVE, *LOCKS, *FOLDERS}
_KNOWN = {
    "manifests": re.compile(r"[0-9a-f]{64}\.(json|binding)"),
    "refs": re.compile(r"[0-9a-f]{64}\.json"),
    "ingest": _HEX,
    "views": _HEX,
    "holds": _HEX,
    "wishes": re.compile(r"[0-9a-f]{16}\.json|paused"),
    "mounts": HOLD,
    "trees": _HEX,
    "quarantine": QUARANTINED,
    "decisions": re.compile("now|before"),
}


def recover(parts: Parts, evictor: Evictor) -> list[str]:
    """Make the store whole again. Returns a line for each thing in it that is not ours."""
    layout, disk = parts.layout, parts.disk
    for name in FOLDERS:
        make_directories(disk, layout.root / name, above=layout.root)
    with gate(layout.gate):
        for folder in _folders(layout.holds):
            _remove_beside(parts, folder)
        parts.trees.sweep()
        parts.trees.renew()
        parts.trees.heal()
        parts.holds.drop_dead()
    for folder in (layout.root, layout.manifests, layout.refs, layout.wishes, layout.quarantine):
        _remove_beside(parts, folder)
    _finish_views(parts, evictor)
    for path in sorted(layout.manifests.glob("*.binding")):
        if not path.with_suffix(".json").exists():
            disk.unlink(path)
    _drop_broken_ingests(parts)
    foreign = [*_clean_shelves(parts), *_foreign(parts)]
    return [f"{path} is not ours: it was left alone" for path in foreign]


def _folders(path: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))  # noqa: PTH208 - 10^5 names, no need for Paths


def _remove_beside(parts: Parts, folder: Path) -> None:
    for name in _names(folder):
        if _BESIDE.fullmatch(name) and stat.S_ISREG((folder / name).lstat().st_mode):
            parts.disk.unlink(folder / name)


def _finish_views(parts: Parts, evictor: Evictor) -> None:
    for path in sorted(parts.layout.views.iterdir()):
        if path.name.startswith(NEW):
            remove_tree(parts.disk, path)
        elif path.name.startswith(GONE):
            name = path.name.removeprefix(GONE)[:64]
            artifact = ArtifactId(f"sha256:{name}")
            if _HEX.fullmatch(name) and not parts.layout.view(artifact).exists():
                evictor.finish(artifact, path)
            else:
                remove_tree(parts.disk, path)
                parts.disk.sync_directory(parts.layout.views)
        elif _HEX.fullmatch(path.name):
            artifact = ArtifactId(f"sha256:{path.name}")
            if not parts.holds.live(artifact):
                parts.views.remove_old(artifact)


def _drop_broken_ingests(parts: Parts) -> None:
    for folder in _folders(parts.layout.ingests):
        if not _HEX.fullmatch(folder.name):
            continue
        _remove_beside(parts, folder)
        data = folder / "data"
        if not (folder / "meta").exists() or not data.exists() or ingests.is_published_too(data):
            ingests.drop(parts.disk, folder)


def _clean_shelves(parts: Parts) -> Iterator[Path]:
    """Remove metas without blob; yield what is foreign. Lists, does not stat: there may be 10^5 blobs."""
    for entry in os.scandir(parts.layout.blobs):
        shelf = Path(entry.path)
        if len(entry.name) != 2 or not entry.is_dir(follow_symlinks=False):
            yield shelf
            continue
        names = set(_names(shelf))
        for name in sorted(names):
            stem, dot, suffix = name.partition(".")
            if _HEX.fullmatch(stem) and name.startswith(entry.name) and (not dot or suffix == "meta"):
                if dot and stem not in names:
                    parts.disk.unlink(shelf / name)
            elif _BESIDE.fullmatch(name):
                parts.disk.unlink(shelf / name)
            else:
                yield shelf / name


def _foreign(parts: Parts) -> Iterator[Path]:
    root = parts.layout.root
    yield from _unlike(root, _ROOT_FILES)
    for folder, pattern in _KNOWN.items():
        yield from (root / folder / name for name in _names(root / folder) if not pattern.fullmatch(name))


def _unlike(folder: Path, known: Collection[str]) -> list[Path]:
    return [folder / name for name in _names(folder) if name not in known]
