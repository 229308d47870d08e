"""What the test hub holds: repositories read from folders, with the identifiers the real Hub would give their files.

    root/<org>/<name>/*            the branch `main`
    root/<org>/<name>/.hub.json    {"gated": true, "private": true, "tokens": ["hf_ok"], "xet": true,
                                    "renamed_to": "org/new", "branches": {"v1": "<folder inside>"}}

Read once, when made: call `Hub.reload` after changing a folder. Files with an LFS suffix are LFS files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".onnx", ".msgpack", ".h5")


@dataclass(frozen=True, slots=True)
class Lfs:
    """`sha256` of the content; `pointer_bytes`, the size of the file that git holds in its place."""

    sha256: str
    pointer_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a commit. `oid` is git's blob id: of the content, or of the pointer of an LFS file."""

    path: Path
    size_bytes: int
    oid: str
    lfs: Lfs | None

    @property
    def xet_hash(self) -> str:
        return "" if self.lfs is None else hashlib.blake2s(self.lfs.sha256.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Settings:
    """`.hub.json`."""

    gated: bool = False
    private: bool = False
    xet: bool = False
    tokens: tuple[str, ...] = ()
    renamed_to: str | None = None
    branches: dict[str, str] = field(default_factory=dict)


class Repository:
    """`branches` maps names to commits, `commits` commits to their files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        written = folder / ".hub.json"
        self.settings = Settings(**json.loads(written.read_text())) if written.exists() else Settings()
        self.branches: dict[str, str] = {}
        self.commits: dict[str, dict[str, Entry]] = {}
        kept_apart = tuple(f"{inside}/" for inside in self.settings.branches.values())
        for branch, inside in {"main": ".", **self.settings.branches}.items():
            files = _files_of(folder / inside, leave_out=kept_apart if inside == "." else ())
            listing = [(path, entry.oid) for path, entry in files.items()]
            commit = hashlib.sha1(json.dumps([name, listing]).encode()).hexdigest()
            self.branches[branch] = commit
            self.commits[commit] = files

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


def read_repositories(root: Path) -> dict[str, Repository]:
    folders = sorted(path for path in root.glob("*/*") if path.is_dir())
    names = {f"{folder.parent.name}/{folder.name}": folder for folder in folders}
    return {name: Repository(folder, name) for name, folder in names.items()}


def _files_of(folder: Path, *, leave_out: tuple[str, ...]) -> dict[str, Entry]:
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: _entry(path) for name, path in found.items() if not name.startswith((".hub", *leave_out))}


def _entry(path: Path) -> Entry:
    size_bytes = path.stat().st_size
    if path.suffix not in LFS_SUFFIXES:
        return Entry(path, size_bytes, _git_oid(path.read_bytes()), None)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size_bytes}\n".encode()
    return Entry(path, size_bytes, _git_oid(pointer), Lfs(sha256, len(pointer)))


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
