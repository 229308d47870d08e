"""What the origin has, and what the Hub's API says about it. Read once from disk; pure after that.

    <folder of a repository>/**      one repository, one commit, branch `main`

Weights and whatever is over 10 MB are LFS files, as on the Hub: named by their SHA-256; the rest by its git blob id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt")
_LFS_BYTES = 10_000_000
_POINTER_BYTES = 134
_WHEN = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a repository."""

    path: Path
    size_bytes: int
    git_oid: str
    sha256: str
    """Hex, of the content."""
    is_lfs: bool

    @property
    def etag(self) -> str:
        """As the Hub states it: SHA-256 of an LFS file, else the git blob id; quoted."""
        return f'"{self.sha256 if self.is_lfs else self.git_oid}"'


@dataclass(frozen=True, slots=True)
class Repository:
    """`org/name` at its only commit."""

    name: str
    commit: str
    entries: Mapping[str, Entry]

    def knows(self, revision: str) -> bool:
        """`main` and the commit are the revisions there are."""
        return revision in ("main", self.commit)

    def about(self) -> dict[str, object]:
        """The answer to `/api/models/org/name`."""
        return {
            "_id": self.commit[:24],
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": self.commit,
            "lastModified": _WHEN,
            "createdAt": _WHEN,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path, **_blob(entry)} for path, entry in self.entries.items()],
        }

    def tree(self, *, recursive: bool) -> list[dict[str, object]]:
        """The answer to `/api/models/org/name/tree/revision`, folders included, on one page."""
        items: dict[str, dict[str, object]] = {}
        for path, entry in self.entries.items():
            parts = path.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if recursive or depth == 1:
                    items[folder] = {"type": "directory", "oid": self.commit, "size": 0, "path": folder}
            if recursive or len(parts) == 1:
                items[path] = {"type": "file", "path": path, "oid": entry.git_oid, "size": entry.size_bytes}
                if entry.is_lfs:
                    items[path]["lfs"] = {"oid": entry.sha256, "size": entry.size_bytes, "pointerSize": _POINTER_BYTES}
        return list(items.values())


def read_repository(name: str, folder: Path, known_sha256: Mapping[str, str] | None = None) -> Repository:
    """Hash the files of `folder`, less those whose digest is in `known_sha256`."""
    known = known_sha256 or {}
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    entries = {}
    for file in files:
        path = file.relative_to(folder).as_posix()
        entries[path] = _entry(file, known.get(path))
    listing = json.dumps([[path, entry.sha256] for path, entry in entries.items()])
    commit = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
    return Repository(name, commit, entries)


def _entry(file: Path, sha256: str | None) -> Entry:
    size = file.stat().st_size
    is_lfs = file.name.endswith(_LFS_SUFFIXES) or size > _LFS_BYTES
    if sha256 is None:
        with open(file, "rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    # git names the pointer of an LFS file, not its content
    tracked = _pointer(sha256, size) if is_lfs else file.read_bytes()
    git_oid = hashlib.sha1(b"blob %d\0" % len(tracked) + tracked, usedforsecurity=False).hexdigest()
    return Entry(file, size, git_oid, sha256, is_lfs)


def _pointer(sha256: str, size_bytes: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size_bytes}\n".encode()


def _blob(entry: Entry) -> dict[str, object]:
    about: dict[str, object] = {"size": entry.size_bytes, "blobId": entry.git_oid}
    if entry.is_lfs:
        about["lfs"] = {"sha256": entry.sha256, "size": entry.size_bytes, "pointerSize": _POINTER_BYTES}
    return about
