"""The digest manifest of a published prefix: written last, so that a prefix has a version and is never seen half uploaded. Pure.

    <prefix>/.prestage/manifest.json
    {"format": 1, "revision": "sha256:…",            of the RFC 8785 JSON of [[path, size, sha256], …]: the prefix's version
     "files": [{"path": "model.safetensors", "size": 90868376, "sha256": "<hex>",
                "etag": "\\"…\\"", "version": "…"}]}   the object as it was put: an object that differs has changed since

Sorted by path. The same content gives the same revision, whatever etags and versions its objects have.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import rfc8785

from prestage.cacher.digests import Digest
from prestage.cacher.errors import Misconfigured, PrestageError
from prestage.cacher.manifest import MAX_FILES, FileEntry, check_path

FORMAT = 1
FOLDER = ".prestage/"
KEY = f"{FOLDER}manifest.json"
MAX_BYTES = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"sha256:[0-9a-f]{64}")


class NotPublished(ValueError):
    """Not the manifest of a published prefix."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What a prefix holds."""

    revision: str
    files: tuple[FileEntry, ...]
    """Each with its SHA-256, its etag and, where the bucket has versions, its version."""

    def to_bytes(self) -> bytes:
        """The manifest, for people to read too."""
        document = {"format": FORMAT, "revision": self.revision, "files": [_row(file) for file in self.files]}
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def publication_of(files: Iterable[FileEntry]) -> Publication:
    """Sort, and give it its version."""
    ordered = tuple(sorted(files, key=lambda file: file.path.encode()))
    rows: list[list[str | int]] = [[file.path, file.size_bytes, (file.digest or "").removeprefix("sha256:")] for file in ordered]
    return Publication(f"sha256:{hashlib.sha256(rfc8785.dumps(list(rows))).hexdigest()}", ordered)


def _row(file: FileEntry) -> dict[str, str | int]:
    row: dict[str, str | int] = {
        "path": file.path,
        "size": file.size_bytes,
        "sha256": (file.digest or "").removeprefix("sha256:"),
    }
    row |= {"etag": file.etag} if file.etag else {}
    return row | ({"version": file.version} if file.version else {})


def parse_publication(raw: bytes) -> Publication:
    """Read a manifest.

    Raises:
        NotPublished: damaged, or its revision is of other files.
        Misconfigured: of a newer version.
    """
    if len(raw) > MAX_BYTES:
        raise NotPublished(f"it has {len(raw)} bytes")
    try:
        document = json.loads(raw)
        if document["format"] != FORMAT:
            raise Misconfigured(f"a published manifest of format {document['format']!r} is unknown here", hint="upgrade prestage")
        files = [_entry(row) for row in document["files"]]
        revision = document["revision"]
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as exc:
        raise NotPublished(f"{type(exc).__name__}: {str(exc)[:100]}") from exc
    found = publication_of(files)
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision) or found.revision != revision:
        raise NotPublished("its revision is of other files")
    if not files or len(files) > MAX_FILES or len({file.path for file in files}) != len(files):
        raise NotPublished(f"it names {len(files)} files, or one twice")
    return found


def _entry(row: dict[str, object]) -> FileEntry:
    path, size, sha256 = row["path"], row["size"], row["sha256"]
    etag, version = row.get("etag"), row.get("version")
    if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 53:
        raise TypeError("path or size")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise TypeError("sha256")
    for value in (etag, version):
        if value is not None and (not isinstance(value, str) or not value or not value.isprintable() or not value.isascii()):
            raise TypeError("etag or version")
    try:
        check_path(path)
    except PrestageError as exc:
        raise ValueError(exc.message) from exc
    return FileEntry(path, size, digest=Digest(f"sha256:{sha256}"), etag=_known(etag), version=_known(version))


def _known(value: object) -> str | None:
    return value if isinstance(value, str) else None


def difference(published: FileEntry, found: FileEntry) -> str:
    """How an object differs from what was published; empty: it does not."""
    if found.size_bytes != published.size_bytes:
        return f"it has {found.size_bytes} bytes, not {published.size_bytes}"
    if published.etag and found.etag and found.etag.strip('"') != published.etag.strip('"'):
        return f"its ETag is {found.etag[:80]}, not {published.etag[:80]}"
    if published.version and found.version and found.version != published.version:
        return f"its version is {found.version[:80]}, not {published.version[:80]}"
    return ""
