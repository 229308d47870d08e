"""What every origin does: `resolve(ref)` to a manifest, and per range a signed request that the engine can send.

An origin is made for one ref (its credentials, its endpoint), is thread-safe, and blocks: it is called from worker
threads. It moves no body byte itself.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.ports import Client, HttpRequest, ResponseHead


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files of a ref are wanted. Patterns are `fnmatch` over the whole path, as in huggingface_hub.

    No `include`: everything, less duplicate weight formats when safetensors are there (see `selection.py`).
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """By the patterns alone."""
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in self.exclude):
            return False
        return not self.include or any(fnmatch.fnmatchcase(path, pattern) for pattern in self.include)


@dataclass(frozen=True, slots=True)
class FileRead:
    """A range that is read from a local path instead of sent over HTTP."""

    path: str
    size_bytes: int
    modified_ns: int
    is_given: bool = False
    """The file is given away: its bytes may become the store's own."""


class Next(Enum):
    """What an answer to a range request, other than the right 206, asks for."""

    RETRY = "retry"
    REFRESH = "refresh"
    """The credential or the signed URL has expired: `refresh()`, then ask for a new request."""
    CHANGED = "changed"
    NO_RANGES = "no-ranges"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How to go on. `error` is set when `next` is FATAL."""

    next: Next
    why: str
    after_s: float | None = None
    congested: bool = False
    error: Exception | None = None


class Origin(Protocol):
    """One ref's origin. Thread-safe."""

    def resolve(self, selection: Selection) -> Manifest:
        """List the files and what pins each. Retries what passes, within 60 s or so in all.

        Raises:
            NotFound, Denied, Misconfigured, Unavailable: one line, with what to try.
        """
        ...

    def request(self, manifest: Manifest, file: FileEntry) -> HttpRequest | FileRead:
        """What gets `file` at its pinned version, signed: the engine adds `Range` and `Accept-Encoding: identity`.

        Cheap when nothing has expired; otherwise refreshes credentials or looks the signed URL up again. Called once a piece.

        Raises:
            NotFound, Denied, Unavailable: as `resolve`.
        """
        ...

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        """Classify an answer that is not the right 206. `body` is its first 4 KiB."""
        ...

    def refresh(self, file: FileEntry) -> None:
        """Forget the cached credential and signed URL of `file`."""
        ...


@runtime_checkable
class Reaching(Origin, Protocol):
    """An origin whose requests are sent by a client of its own: another policy, another CA."""

    @property
    def client(self) -> Client:
        """Sends what `request` gave out. The origin's to close."""
        ...


@runtime_checkable
class LocalOrigin(Origin, Protocol):
    """An origin on this machine: its bytes can be shared instead of moved."""

    def place(self, manifest: Manifest, file: FileEntry) -> FileRead:
        """Where `file` lies, checked again.

        Raises:
            NotFound, Denied, Misconfigured: not there any more, or something else by now.
        """
        ...
