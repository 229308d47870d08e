"""What a stage says, one JSON object an event: the same on the command line, on the agent's socket and in its log. docs/cli.md.

resolved  artifact files bytes missing_bytes identity        verifying
progress  bytes total bytes_per_s retries source             trouble   message
done      artifact path files bytes seconds bytes_by_source retries identity (weakness: why it is weak)
error     kind message hint
"""

from __future__ import annotations

from collections.abc import Callable

from prestage.cacher.errors import PrestageError
from prestage.cacher.manifest import Manifest
from prestage.cacher.staging.wishes import Staged, Watcher
from prestage.cacher.transfer.job import Progress

Event = dict[str, object]


class Events(Watcher):
    """A watcher that tells `tell` what it hears, as events."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell

    def resolved(self, manifest: Manifest, missing_bytes: int) -> None:
        """See Watcher."""
        self._tell(
            {
                "event": "resolved",
                "artifact": manifest.artifact,
                "files": len(manifest.files),
                "bytes": manifest.size_bytes,
                "missing_bytes": missing_bytes,
                "identity": _identity(manifest.is_weak),
            }
        )

    def progress(self, progress: Progress) -> None:
        """See Watcher."""
        self._tell(
            {
                "event": "progress",
                "bytes": progress.bytes_done,
                "total": progress.bytes_total,
                "bytes_per_s": round(progress.bytes_per_s),
                "retries": progress.retries,
                "source": progress.source,
            }
        )

    def verifying(self) -> None:
        """See Watcher."""
        self._tell({"event": "verifying"})

    def trouble(self, why: str) -> None:
        """See Watcher."""
        self._tell({"event": "trouble", "message": why})


def done(staged: Staged) -> Event:
    """The last event of a stage that went well."""
    return {
        "event": "done",
        "artifact": staged.artifact,
        "path": str(staged.path),
        "files": staged.files,
        "bytes": staged.bytes,
        "seconds": round(staged.seconds, 3),
        "bytes_by_source": dict(staged.bytes_by_source),
        "retries": staged.retries,
        "identity": _identity(staged.is_weak),
        **({"weakness": staged.weakness} if staged.is_weak else {}),
    }


def error(exc: PrestageError) -> Event:
    """The last event of one that did not."""
    return {"event": "error", "kind": exc.kind, "message": exc.message, "hint": exc.hint}


def _identity(is_weak: bool) -> str:
    return "weak" if is_weak else "pinned"
