"""What an Artifact is made of: why a node that has part of it already is the better one. Pure.

    spec.manifest, up to a MiB  ─ as it comes in ─▶  16 bytes for each of its largest files  ─▶  Contents: what two share

Two files are one where a node that has the one would not fetch the other (cacher/store/reuse.py): of the same authority, with the
same SHA-256 or the very same file at the same version. Layers of images are one where all layers below them are (images/plan.py).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from prestage.kube.ports import Object
from prestage.planner.likeness import Parts

PARTS: Final = "parts"
"""Where the mirror keeps them in an Artifact."""
LEAST_BYTES: Final = 2**20
"""What is smaller is no reason to choose a node."""
FILES_MAX: Final = 64
"""The largest of an artifact are kept: a KiB."""
_MANIFEST_CHARS_MAX: Final = 2**18
"""In base64: some 5,000 files. What has more is many small ones, and takes the planner's time."""
_MANIFEST_BYTES_MAX: Final = 8 * 2**20
_SIZE_MAX: Final = 1 << 53
_PART: Final = struct.Struct("<QQ")
_IMAGE: Final = "image"


class _File(msgspec.Struct):
    path: str
    size: int
    digest: str | None = None
    checksum: str | None = None
    etag: str | None = None
    version: str | None = None
    modified: str | None = None


class _Manifest(msgspec.Struct):
    authority: str
    base: str
    kind: str
    files: list[_File]


def packed_parts(manifest: object) -> bytes:
    """Of `spec.manifest`, a name and the bytes of each; empty where it cannot be read: that costs the order of nodes, no more."""
    if not isinstance(manifest, str) or len(manifest) > _MANIFEST_CHARS_MAX:
        return b""
    try:
        raw = zlib.decompressobj(wbits=31).decompress(base64.b64decode(manifest, validate=True), _MANIFEST_BYTES_MAX)
        read = msgspec.json.decode(raw, type=_Manifest)
    except (binascii.Error, zlib.error, msgspec.DecodeError, UnicodeEncodeError, ValueError):
        return b""
    named = dict(_layers(read) if read.kind == _IMAGE else _files(read))
    largest = sorted(((size, name) for name, size in named.items() if LEAST_BYTES <= size < _SIZE_MAX), reverse=True)[:FILES_MAX]
    return b"".join(_PART.pack(name, size) for size, name in largest)


def _files(manifest: _Manifest) -> Iterator[tuple[int, int]]:
    for one in manifest.files:
        if one.digest is not None and one.digest.startswith("sha256:"):
            yield _name(manifest.authority, one.size, one.digest), one.size
        elif one.digest or one.checksum or one.etag or one.version or one.modified:
            where = (manifest.authority, manifest.base, one.path, one.size)
            yield _name(*where, one.digest, one.checksum, one.etag, one.version, one.modified), one.size


def _layers(manifest: _Manifest) -> Iterator[tuple[int, int]]:
    below = 0
    for one in manifest.files:
        if one.path.startswith("layers/"):
            below = _name(below, one.digest)
            yield below, one.size


def _name(*about: str | int | None) -> int:
    """Eight bytes: of millions two may be alike by chance, and a node be chosen for bytes that it has not."""
    text = msgspec.json.encode(about)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class Contents:
    """Of all Artifacts, by digest. Only what changed since the last look is read again."""

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}
        self._only: dict[int, tuple[str, int]] = {}
        """Of a part that one artifact has: which, and its bytes."""
        self._of: dict[str, dict[int, int]] = {}
        self._holders: dict[int, set[str]] = {}

    def look(self, artifacts: Iterable[Object]) -> Parts:
        """Valid until the next look."""
        fresh = dict[str, bytes]()
        for seen in artifacts:
            spec, packed = seen.get("spec"), seen.get(PARTS)
            if isinstance(spec, Mapping) and isinstance(packed, bytes) and packed:
                digest = str(spec.get("digest", ""))
                fresh[digest] = max(packed, fresh.get(digest, b""))  # of several namespaces: alike, unless somebody lies
        before, self._packed = self._packed, fresh
        for digest, packed in before.items():
            if fresh.get(digest) != packed:
                for name, _ in _PART.iter_unpack(packed):
                    self._drop(digest, name)
        for digest, packed in fresh.items():
            if before.get(digest) != packed:
                for name, size_bytes in _PART.iter_unpack(packed):
                    self._add(digest, name, size_bytes)
        return Parts(self._of, self._holders)

    def _add(self, digest: str, name: int, size_bytes: int) -> None:
        holders = self._holders.get(name)
        if holders is None:
            only = self._only.pop(name, None)
            if only is None or only[0] == digest:
                self._only[name] = digest, size_bytes
                return
            self._of.setdefault(only[0], {})[name] = only[1]
            holders = self._holders[name] = {only[0]}
        holders.add(digest)
        self._of.setdefault(digest, {})[name] = size_bytes

    def _drop(self, digest: str, name: int) -> None:
        holders = self._holders.get(name)
        if holders is None:
            self._only.pop(name, None)
            return
        holders.discard(digest)
        self._forget(digest, name)
        if len(holders) == 1:
            [other] = holders
            self._only[name] = other, self._of[other][name]
            self._forget(other, name)
            del self._holders[name]

    def _forget(self, digest: str, name: int) -> None:
        own = self._of.get(digest, {})
        own.pop(name, None)
        if not own:
            self._of.pop(digest, None)
