"""The Hugging Face layout of artifacts: where huggingface_hub's own download would have put their files. Pure.

    models--<org>--<name>/blobs/<etag>              a link to a blob
                          snapshots/<commit>/<path> -> ../../blobs/<etag>
                          refs/main, refs/<revision>      the commit
                          trees/<commit>.json       what is there, for the client's test of completeness when offline

Written after what huggingface_hub 2.4 itself writes (tests/integration/layout compares the two). Artifacts that did not come from
a hub get a repository name from whoever asks, and names that cannot be mistaken: a blob without SHA-256 is `blake3-tree-<hex>`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prestage.cacher.digests import BlobId, hex_of
from prestage.cacher.errors import Misconfigured
from prestage.cacher.manifest import FileEntry, Manifest, check_path

DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?:{_WORD}/)?{_WORD}")


@dataclass(slots=True)
class Leaves:
    """What lies in a tree, by path from its top."""

    links: dict[str, BlobId] = field(default_factory=dict)
    symlinks: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, other: Leaves, *, below: str) -> None:
        """Put `other` under the folder `below`."""
        self.links.update({f"{below}/{path}": blob for path, blob in other.links.items()})
        self.symlinks.update({f"{below}/{path}": target for path, target in other.symlinks.items()})
        self.files.update({f"{below}/{path}": raw for path, raw in other.files.items()})


@dataclass(frozen=True, slots=True)
class Revision:
    """An artifact as a revision of a model repository."""

    repo: str
    manifest: Manifest
    binding: Mapping[str, BlobId]
    name: str | None = None
    """The branch or tag it was asked for by."""

    @property
    def commit(self) -> str:
        """40 hex digits, as the client wants them: the manifest's commit, else the first of the artifact."""
        stated = self.manifest.revision or ""
        return stated if _COMMIT.fullmatch(stated) else hex_of(self.manifest.artifact)[:40]


def repository_of(manifest: Manifest) -> str | None:
    """`org/name` of an artifact that came from a hub, else None."""
    if not manifest.authority.startswith("hf:"):
        return None
    return "/".join(manifest.authority.rsplit("/", 2)[-2:])


def check_repository(repo: str) -> None:
    """Refuse what huggingface_hub would not take for a repository's name.

    Raises:
        Misconfigured: with an example.
    """
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith(".git"):
        raise Misconfigured(f"{repo[:120]!r} is not the name of a model repository", hint="write org/name")


def check_revision(name: str) -> None:
    """Refuse a branch or tag that cannot be a path below refs/.

    Raises:
        Misconfigured: which, and why.
    """
    check_path(name)


def is_main(name: str) -> bool:
    """The revision of that name has no file in refs/ but refs/main: a commit has none of its own."""
    return name == DEFAULT_REVISION or _COMMIT.fullmatch(name) is not None


def folder_of(repo: str) -> str:
    """`models--org--name`."""
    return f"models--{repo.replace('/', '--')}"


def lay_out(revisions: Iterable[Revision]) -> Leaves:
    """The folder that HF_HUB_CACHE may point to.

    Raises:
        Misconfigured: two revisions of one repository want one name; says which.
    """
    leaves = Leaves()
    by_repo: dict[str, list[Revision]] = {}
    for revision in revisions:
        by_repo.setdefault(folder_of(revision.repo), []).append(revision)
    for folder, group in by_repo.items():
        leaves.add(_repository(group), below=folder)
    return leaves


def _repository(revisions: list[Revision]) -> Leaves:
    leaves = Leaves()
    listings: dict[str, dict[str, dict[str, str | int]]] = {}
    for revision in revisions:
        for file in revision.manifest.files:
            blob = revision.binding[file.path]
            name = _etag(file, blob)
            leaves.links[f"blobs/{name}"] = blob
            up = "../" * (2 + file.path.count("/"))
            leaves.symlinks[f"snapshots/{revision.commit}/{file.path}"] = f"{up}blobs/{name}"
            listings.setdefault(revision.commit, {})[file.path] = _tree_entry(file, name)
    for commit, entries in listings.items():
        listing = {"format_version": 1, "files": {path: entries[path] for path in sorted(entries)}}
        leaves.files[f"trees/{commit}.json"] = json.dumps(listing, indent=1).encode()
    for name, commit in _refs(revisions).items():
        leaves.files[f"refs/{name}"] = commit.encode()
    return leaves


def _refs(revisions: list[Revision]) -> dict[str, str]:
    refs: dict[str, str] = {}
    for revision in revisions:
        if revision.name is None or _COMMIT.fullmatch(revision.name):
            continue
        if refs.setdefault(revision.name, revision.commit) != revision.commit:
            raise Misconfigured(
                f"{revision.repo}@{revision.name} is named twice and means two commits", hint="name each revision once"
            )
    refs.setdefault(DEFAULT_REVISION, revisions[0].commit)
    for name in refs:
        for at in (at for at, letter in enumerate(name) if letter == "/"):
            if name[:at] in refs:
                raise Misconfigured(
                    f"the revisions {name[:at]!r} and {name!r} cannot lie in one folder", hint="compose two trees"
                )
    return refs


def _etag(file: FileEntry, blob: BlobId) -> str:
    algorithm, _, value = (file.digest or "").partition(":")
    return value if algorithm in ("sha256", "git-sha1") else f"blake3-tree-{hex_of(blob)}"


def _tree_entry(file: FileEntry, name: str) -> dict[str, str | int]:
    algorithm, _, value = (file.digest or "").partition(":")
    if algorithm != "sha256":
        return {"size": file.size_bytes, "blob_id": name}
    return {
        "size": file.size_bytes,
        "blob_id": _pointer_id(value, file.size_bytes),
        "lfs_sha256": value,
        "lfs_size": file.size_bytes,
    }


def _pointer_id(sha256: str, size_bytes: int) -> str:
    """Git's id of the pointer that stands for an LFS file: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size_bytes}\n".encode()
    return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()
