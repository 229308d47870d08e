"""What somebody wants staged, how he hears of it, and what came of it. Values, no effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.digests import ArtifactId
from prestage.cacher.manifest import Manifest
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import Ref
from prestage.cacher.transfer.job import Progress
from prestage.cacher.transfer.limits import Priority


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants staged."""

    ref: Ref
    selection: Selection = field(default_factory=Selection)
    priority: Priority = Priority.DECLARED


@dataclass(frozen=True, slots=True)
class Staged:
    """A stage that is done: whole, verified, published."""

    artifact: ArtifactId
    path: Path
    files: int
    bytes: int
    seconds: float
    bytes_by_source: Mapping[str, int]
    """`origin` (and later `peer`): fetched now; `clone`, `moved`: a local file's own blocks; `journal`: fetched by an
    earlier run; `store`: was here already."""
    retries: int = 0
    weakness: str = ""
    """See `Manifest.weakness`; empty when it is pinned."""

    @property
    def is_weak(self) -> bool:
        """It may be told from another version by less than it should."""
        return bool(self.weakness)


class Watcher:
    """Told how a stage goes on; this one says nothing. Called in the thread that called `Stager.stage`."""

    def resolved(self, manifest: Manifest, missing_bytes: int) -> None:
        """The files are known; so many bytes are still to fetch."""

    def progress(self, progress: Progress) -> None:
        """Some more bytes came; several times a second."""

    def verifying(self) -> None:
        """All bytes are here; digests in file order are being finished."""

    def trouble(self, why: str) -> None:
        """Something went wrong that is being cured."""
