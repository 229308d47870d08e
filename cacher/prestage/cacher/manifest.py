"""The manifest: the resolved, immutable list of an artifact's files. Its SHA-256 is the artifact's name. Pure.

    {"authority": "hf:https://huggingface.co/org/name",   where the bytes come from; equal authorities may share bytes
     "base": "",                                          what stands before each path at the origin (a prefix, a folder)
     "files": [{"path": "model.safetensors", "size": 90868376,
                "digest": "sha256:…",                     where the origin states one: a claim, checked after download
                "checksum": "crc64nvme:…",                full-object checksum, checked too
                "etag": "…", "version": "…", "modified": "…"}],      validators: what pins this version
     "format": 1, "kind": "model", "revision": "<commit>" or null}

Written as RFC 8785 JSON, files sorted by path, absent fields left out. Nothing in it depends on the node, the clock or
the credential: two nodes that resolve one ref at one version get the same artifact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import rfc8785

from prestage.cacher.digests import ArtifactId, Digest
from prestage.cacher.errors import Corrupt, Misconfigured

FORMAT = 1
MAX_PATH_BYTES = 1024
"""Longest path of a file in an artifact; PATH_MAX is 4096 and the store's own folders need room."""
MAX_NAME_BYTES = 255
"""NAME_MAX of every Linux file system."""
MAX_FILES = 100_000
_OPTIONAL = ("digest", "checksum", "etag", "version", "modified")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact as its origin states it."""

    path: str
    """Relative, with forward slashes; checked by `check_path`."""
    size_bytes: int
    digest: Digest | None = None
    """Digest of the whole content stated by the origin (`sha256:`, `git-sha1:`): a claim until checked."""
    checksum: Digest | None = None
    """Full-object checksum (`crc64nvme:`, `crc32c:`, `crc32:`), hex: finds damage, proves nothing."""
    etag: str | None = None
    """Sent as If-Match on every range; compared, never interpreted."""
    version: str | None = None
    """Object version (S3 versionId): stronger than the etag."""
    modified: str | None = None
    """Last-Modified, or mtime in ns for file://: the weakest pin."""

    @property
    def is_pinned(self) -> bool:
        """True when something tells this version from another of the same size."""
        return any((self.digest, self.checksum, self.etag, self.version, self.modified))

    def to_json(self) -> dict[str, str | int]:
        """The entry as it stands in the manifest."""
        row: dict[str, str | int] = {"path": self.path, "size": self.size_bytes}
        for name in _OPTIONAL:
            if value := getattr(self, name):
                row[name] = cast(str, value)
        return row


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a ref stands for, resolved. Build it with `manifest_of`, which sorts and checks."""

    authority: str
    base: str
    files: tuple[FileEntry, ...]
    revision: str | None = None
    kind: str = "model"
    _artifact: list[ArtifactId] = field(default_factory=list, init=False, repr=False, compare=False, hash=False)
    """Its name, once it was asked for: a manifest of 1,000 files is asked for it a thousand times."""

    def to_bytes(self) -> bytes:
        """RFC 8785 JSON: the bytes whose SHA-256 is the artifact."""
        return rfc8785.dumps(
            {
                "authority": self.authority,
                "base": self.base,
                "files": [file.to_json() for file in self.files],
                "format": FORMAT,
                "kind": self.kind,
                "revision": self.revision,
            }
        )

    @property
    def artifact(self) -> ArtifactId:
        """`sha256:<hex>` of `to_bytes()`."""
        if not self._artifact:
            self._artifact.append(ArtifactId(f"sha256:{hashlib.sha256(self.to_bytes()).hexdigest()}"))
        return self._artifact[0]

    @property
    def size_bytes(self) -> int:
        """Sum over all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def is_weak(self) -> bool:
        """It may be told from another version by less than it should; `weakness` says how."""
        return bool(self.weakness)

    @property
    def weakness(self) -> str:
        """Why its identity is weak; empty: it is pinned."""
        if not all(file.is_pinned for file in self.files):
            return "the origin gives nothing but a size to tell versions apart"
        if self.authority.startswith("s3:") and self.revision is None and len(self.files) > 1:
            return "each file is pinned, but the prefix has no version: it may have been listed half uploaded (prestage publish)"
        return ""


def manifest_of(
    authority: str, base: str, files: Iterable[FileEntry], *, revision: str | None = None, kind: str = "model"
) -> Manifest:
    """Sort, check and freeze what an origin listed.

    Raises:
        Misconfigured: no file, too many files, a path that is not safe to write (named), or two paths that collide.
    """
    ordered = tuple(sorted(files, key=lambda file: file.path.encode("utf-8", "surrogatepass")))
    if not ordered:
        raise Misconfigured("nothing to stage: no file is left", hint="check the prefix and the --include/--exclude patterns")
    if len(ordered) > MAX_FILES:
        raise Misconfigured(f"{len(ordered)} files are more than {MAX_FILES}", hint="narrow it with --include")
    for file in ordered:
        check_path(file.path)
        if not 0 <= file.size_bytes < 1 << 53:
            raise Misconfigured(f"{file.path!r} has the impossible size {file.size_bytes}")
    _check_collisions(file.path for file in ordered)
    return Manifest(authority, base, ordered, revision, kind)


def check_path(path: str) -> None:
    """Refuse a path that must not be written below a view.

    Raises:
        Misconfigured: empty, absolute, `..`, `.`, empty component, NUL or control characters, too long, not UTF-8,
            or `.prestage`/`.hf` (ours).
    """
    try:
        raw = path.encode()
    except UnicodeEncodeError as exc:
        raise Misconfigured(f"file name {path!r} is not UTF-8", hint="rename it at the origin or --exclude it") from exc
    parts = path.split("/")
    reason = None
    if not path or path.startswith("/"):
        reason = "is absolute or empty"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "has an empty, '.' or '..' component"
    elif any(ord(c) < 32 or ord(c) == 127 for c in path) or "\\" in path:
        reason = "has a control character or a backslash"
    elif len(raw) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        reason = f"is longer than {MAX_PATH_BYTES} bytes (or a part than {MAX_NAME_BYTES})"
    elif parts[0] in (".prestage", ".hf"):
        reason = "uses a name that prestage keeps for itself"
    if reason:
        shown = path if len(path) <= 120 else path[:117] + "..."
        raise Misconfigured(f"file name {shown!r} {reason}", hint="rename it at the origin or --exclude it")


def _check_collisions(paths: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        folded = path.casefold()
        if other := seen.get(folded):
            raise Misconfigured(f"file names {other!r} and {path!r} collide", hint="--exclude one of them")
        seen[folded] = path
        parent = folded
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            folders[parent] = path
    for folded, path in seen.items():
        if other := folders.get(folded):
            raise Misconfigured(f"{path!r} is a file, but {other!r} needs it as a folder", hint="--exclude one of them")


def parse_manifest(raw: bytes, expected: ArtifactId | None = None) -> Manifest:
    """Read a manifest that we or another node wrote.

    Raises:
        Corrupt: not the artifact that was expected, or not a manifest.
        Misconfigured: a newer format, or names that are not safe.
    """
    if expected is not None and f"sha256:{hashlib.sha256(raw).hexdigest()}" != expected:
        raise Corrupt(f"manifest of {expected} has other bytes than its name says", hint="stage it again")
    try:
        doc = json.loads(raw)
        if doc["format"] != FORMAT:
            raise Misconfigured(f"manifest format {doc['format']!r} is unknown to this version", hint="upgrade prestage")
        files = [_entry(row) for row in doc["files"]]
        return manifest_of(_text(doc["authority"]), _text(doc["base"]), files, revision=doc["revision"], kind=_text(doc["kind"]))
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise Corrupt(f"not a manifest: {type(exc).__name__}: {exc}") from exc


def _entry(row: Mapping[str, object]) -> FileEntry:
    size = row["size"]
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError("size is not an integer")
    optional = {field: _text(row[field]) for field in _OPTIONAL if field in row}
    return FileEntry(
        _text(row["path"]),
        size,
        digest=Digest(optional["digest"]) if "digest" in optional else None,
        checksum=Digest(optional["checksum"]) if "checksum" in optional else None,
        etag=optional.get("etag"),
        version=optional.get("version"),
        modified=optional.get("modified"),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
