"""Finding and reading the chunk sums of a file, as docs/format.md ("sums") has them. Nothing else of the store is needed.

    <view>/.prestage/sums                  what a view carries itself
    <view>/../.prestage/<name>/sums        <name> = last part of <view>: a store's views/<hex>/, a pod's volume

    {"format": 1, "artifact": "sha256:…", "algorithm": "xxh3-128", "chunk_bytes": 4194304,
     "files": {"<path inside the view>": {"size": 90868376, "chunks": "<hex, 16 bytes a chunk>"}}}

A file may lie in a subfolder of its view, so every folder above it is asked, nearest first; then those above what its symlinks
lead to. Absent sums are an answer (None). Sums that are there but cannot be understood are an error: a loader that shrugs at
damaged sums verifies nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass

from prestage.loader import strict_json
from prestage.loader.errors import VerifyUnavailable

VERIFY_MODES = ("auto", "require", "off")
DIGEST_BYTES = 16
_FORMAT = 1
_ALGORITHM = "xxh3-128"
_CHUNK_BYTES_MIN, _CHUNK_BYTES_MAX = 4096, 1 << 30
_FILE_BYTES_MAX = 256 << 20
"""Of the sums file: enough for 32 TB in chunks of 4 MiB."""
_LEVELS_MAX = 64
"""Folders above a file that are asked; deeper trees are no views."""


@dataclass(frozen=True, slots=True)
class FileSums:
    """What one file's bytes should be."""

    artifact: str
    size_bytes: int
    chunk_bytes: int
    digests: bytes
    """16 bytes a chunk, big-endian xxh3-128."""
    place: str
    """Path of the file that says so."""


@dataclass(frozen=True, slots=True)
class _View:
    artifact: str
    chunk_bytes: int
    files: dict[str, object]


def find(path: str) -> FileSums | None:
    """The sums of the file at `path`, or None when no folder above it holds any that name it.

    Raises:
        VerifyUnavailable: sums are there and damaged, or of a format or algorithm this version does not know.
    """
    names = [os.path.abspath(path)]  # noqa: PTH100 - resolve() follows symlinks, and pathlib is 5 ms of import
    if (target := os.path.realpath(path)) != names[0]:
        names.append(target)
    for name in names:
        for view, inside in _views_above(name):
            for place in _places(view):
                found = _read(place)
                if found is not None and inside in found.files:
                    return _file_sums(found, inside, place)
    return None


def no_sums(path: str) -> VerifyUnavailable:
    """What "require" says of a file without sums."""
    return VerifyUnavailable(
        f"no sums for {path!r} in a .prestage folder beside it or above it", hint='stage the artifact, or pass verify="auto"'
    )


def _views_above(path: str) -> Iterator[tuple[str, str]]:
    folder, inside = os.path.split(path)
    for _ in range(_LEVELS_MAX):
        yield folder, inside
        parent, name = os.path.split(folder)
        if parent == folder:
            return
        folder, inside = parent, f"{name}/{inside}"


def _places(view: str) -> tuple[str, str]:
    parent, name = os.path.split(view)
    return f"{view}/.prestage/sums", f"{parent}/.prestage/{name}/sums"


def _read(place: str) -> _View | None:
    try:
        state = os.stat(place)  # noqa: PTH116 - without pathlib, as above
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise VerifyUnavailable(
            f"the sums at {place!r} cannot be read: {exc.strerror}", hint="check the volume's permissions"
        ) from exc
    return _read_version(place, (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _read_version(place: str, version: tuple[int, int, int, int]) -> _View:
    """Remembered, because a checkpoint of 200 shards would parse the same megabytes 200 times. `version` tells a changed file."""
    if version[2] > _FILE_BYTES_MAX:
        raise _unusable(place, f"it has {version[2]} bytes, at most {_FILE_BYTES_MAX} are read")
    try:
        with open(place, "rb") as source:
            raw = source.read(_FILE_BYTES_MAX)
    except OSError as exc:
        raise VerifyUnavailable(
            f"the sums at {place!r} cannot be read: {exc.strerror}", hint="check the volume's permissions"
        ) from exc
    try:
        table = strict_json.loads(raw)
    except ValueError as exc:
        raise _unusable(place, str(exc)) from exc
    return _view(table, place)


def _view(table: object, place: str) -> _View:
    if not isinstance(table, dict):
        raise _unusable(place, "it is not an object")
    if table.get("format") != _FORMAT or table.get("algorithm") != _ALGORITHM:
        raise _unusable(
            place, f"format {table.get('format')!r} with {table.get('algorithm')!r}; known is {_FORMAT} with {_ALGORITHM!r}"
        )
    artifact, chunk_bytes, files = table.get("artifact"), table.get("chunk_bytes"), table.get("files")
    if not isinstance(artifact, str) or not isinstance(files, dict):
        raise _unusable(place, "it names no artifact or no files")
    if type(chunk_bytes) is not int or not _CHUNK_BYTES_MIN <= chunk_bytes <= _CHUNK_BYTES_MAX:
        raise _unusable(place, f"chunk_bytes is {chunk_bytes!r}")
    return _View(artifact, chunk_bytes, files)


def _file_sums(view: _View, inside: str, place: str) -> FileSums:
    entry = view.files[inside]
    size = entry.get("size") if isinstance(entry, dict) else None
    chunks = entry.get("chunks") if isinstance(entry, dict) else None
    if type(size) is not int or size < 0 or not isinstance(chunks, str):
        raise _unusable(place, f"the entry of {inside!r} has no size or no chunks")
    try:
        digests = bytes.fromhex(chunks)
    except ValueError as exc:
        raise _unusable(place, f"the chunks of {inside!r} are not hex") from exc
    if len(digests) != DIGEST_BYTES * -(-size // view.chunk_bytes):
        raise _unusable(place, f"{inside!r} has {len(digests) // DIGEST_BYTES} chunk sums for {size} bytes")
    return FileSums(view.artifact, size, view.chunk_bytes, digests, place)


def _unusable(place: str, why: str) -> VerifyUnavailable:
    return VerifyUnavailable(
        f"the sums at {place!r} cannot be used: {why}", hint='stage the artifact again, or pass verify="off"'
    )
