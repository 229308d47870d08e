"""Files outside the store: how they can come in, which ones have, and the end of those that were given away. The owner's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Bug
from prestage.cacher.store.disk import disk_errors
from prestage.cacher.store.eviction import Parts
from prestage.cacher.store.sharing import Sharing, probe
from prestage.cacher.store.verify import measure


class Sources:
    """See the module. Thread-safe. `state`: of an artifact, as `Store.state`."""

    def __init__(self, parts: Parts, state: Callable[[ArtifactId], str]) -> None:
        self._parts, self._state = parts, state
        self._lock = threading.Lock()

    @disk_errors()
    def sharing(self, path: Path, *, take: bool = False) -> Sharing:
        """How a local file can come in without being fetched; `take`: it is given away. Tried out, not guessed."""
        with self._lock:
            return probe(self._parts.disk, self._parts.layout.root / ".probe.new", path, take=take)

    @disk_errors()
    def is_blob(self, source: Path) -> bool:
        """`source` is a second name of a blob: an earlier run linked it in. Reads it, unless it has one name only."""
        if source.stat().st_nlink < 2:
            return False
        return _is_same(self._parts.layout.blob(measure(source, lambda _: None).blob), source)

    @disk_errors()
    def equals(self, artifact: ArtifactId, path: str, source: Path) -> bool:
        """The bytes of `source` are those of the artifact's file `path`. Reads them, unless it is the same file."""
        blob = self._parts.artifacts.binding(artifact).get(path)
        if blob is None or not source.is_file():
            return False
        return _is_same(self._parts.layout.blob(blob), source) or measure(source, lambda _: None).blob == blob

    @disk_errors()
    def take_away(self, artifact: ArtifactId, names: Iterable[Path]) -> None:
        """Remove the old names of files that are given to this store, durably: only of an artifact that is whole and held, so
        that a kill at any point leaves each file there or here.

        Raises:
            Bug: it is not.
        """
        if self._state(artifact) != "staged" or not self._parts.holds.live(artifact):
            raise Bug(f"the files of {artifact} are taken away although it is not whole, or not held")
        folders = set()
        for name in names:
            self._parts.disk.unlink(name)
            folders.add(name.parent)
        for folder in sorted(folders):
            self._parts.disk.sync_directory(folder)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
