"""A whole checkpoint: one file, or a folder of shards with or without an index, its headers read and checked against each other.

    <folder>/model.safetensors.index.json   {"metadata": {…}, "weight_map": {"<tensor>": "<shard>", …}}
    <folder>/<shard>                        named by the index, in subfolders too; without one model.safetensors, else every
                                            *.safetensors beside it

Refused: an index that names a file or a tensor which is not there, a shard outside the folder, one name in two shards, one
index too many. Headers are read unverified; what they promise is believed only once their chunks were checked, and a header that
cannot be parsed is called corrupt where its chunks differ from the sums.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prestage.loader import header, strict_json, sums
from prestage.loader.errors import InvalidCheckpoint, InvalidFile, Unsupported
from prestage.loader.header import Header, TensorInfo
from prestage.loader.sums import FileSums
from prestage.loader.verify import check_chunk, refuse_size

INDEX_SUFFIX = ".safetensors.index.json"
_SUFFIX = ".safetensors"
_USUAL = "model"
_INDEX_BYTES_MAX = 256 << 20
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """Tells a file from another that later has its name."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a checkpoint."""

    path: str
    identity: Identity
    header: Header
    header_end: int
    """Offset at which the data begins."""
    sums: FileSums | None

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self.identity.size_bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Shards in the order in which they are read, and where each tensor lies."""

    name: str
    """Last part of the path, for a person to read."""
    shards: tuple[Shard, ...]
    places: dict[str, tuple[int, TensorInfo]]
    """By tensor: which shard, and where in it. In the order of the shards and of their bytes."""
    aliases: dict[str, str]
    """Tied names: not stored, but stated by a header's metadata to be another tensor of that file."""
    metadata: dict[str, str]
    """Of all headers; where two differ, the first one's."""

    @property
    def artifact(self) -> str | None:
        """As the sums name it; None where any shard has none."""
        found = {shard.sums.artifact if shard.sums else None for shard in self.shards}
        return found.pop() if len(found) == 1 else None


def read(path: str, verify: str = "auto") -> Checkpoint:
    """The checkpoint at `path`: a folder, an index, or one safetensors file.

    Raises:
        OSError: something is missing or cannot be read.
        InvalidCheckpoint: the files do not belong together.
        InvalidFile, CorruptFile, VerifyUnavailable, Unsupported: as `safe_open`, for any of its files.
    """
    if verify not in sums.VERIFY_MODES:
        raise Unsupported(f"verify {verify!r} is invalid (expected one of: {', '.join(sums.VERIFY_MODES)})")
    files, weight_map = _files(path)
    shards = tuple(_shard(file, verify) for file in files.values())
    places = merged({file: shard.header.tensors for file, shard in zip(files, shards, strict=True)})
    if weight_map is not None:
        names = list(files)
        refuse_mismatch(weight_map, {name: names[number] for name, (number, _) in places.items()})
    metadata: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for shard in shards:
        texts = shard.header.metadata or {}
        metadata = texts | metadata
        aliases |= {name: kept for name, kept in texts.items() if name not in places and kept in shard.header.tensors}
    return Checkpoint(os.path.basename(os.path.abspath(path)), shards, places, aliases, metadata)  # noqa: PTH100, PTH119 - no pathlib at import


def merged(headers: Mapping[str, Mapping[str, TensorInfo]]) -> dict[str, tuple[int, TensorInfo]]:
    """One table of all shards, each by its name in the checkpoint, in their order. Pure.

    Raises:
        InvalidCheckpoint: a tensor is in two of them; both are named.
    """
    places: dict[str, tuple[int, TensorInfo]] = {}
    names = list(headers)
    for number, tensors in enumerate(headers.values()):
        for name, info in tensors.items():
            if name in places:
                raise InvalidCheckpoint(
                    f"tensor {name!r} is in two files: {names[places[name][0]]!r} and {names[number]!r}",
                    hint="remove the one that does not belong to this checkpoint, or name one file",
                )
            places[name] = number, info
    return places


def refuse_mismatch(weight_map: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Compare what the index says with what the shards hold. A tensor that only a shard knows is loaded all the same. Pure.

    Raises:
        InvalidCheckpoint: a tensor is not in the file that the index names.
    """
    for name, file in weight_map.items():
        if (where := found.get(name)) != file:
            held = f"it is in {where!r}" if where else "no file holds it"
            raise InvalidCheckpoint(
                f"the index says that tensor {name!r} is in {file!r}, but {held}",
                hint="get the checkpoint's files again, all of one version",
            )


def chosen(names: Iterable[str]) -> tuple[str | None, list[str]]:
    """Of a folder's file names: its index, or the shards to load where it has none. Pure.

    Raises:
        InvalidCheckpoint: nothing to load, or several indices of which none has the usual name.
    """
    listed = sorted(names)
    indices = [name for name in listed if name.endswith(INDEX_SUFFIX)]
    if _USUAL + INDEX_SUFFIX in indices:
        return _USUAL + INDEX_SUFFIX, []
    if _USUAL + _SUFFIX in listed:
        return None, [_USUAL + _SUFFIX]
    if len(indices) > 1:
        raise InvalidCheckpoint(f"several indices: {', '.join(map(repr, indices))}", hint="pass the path of one of them")
    shards = [name for name in listed if name.endswith(_SUFFIX)]
    if not indices and not shards:
        raise InvalidCheckpoint("no *.safetensors here", hint="name a model's folder or one file")
    return (indices[0], []) if indices else (None, shards)


def index_of(raw: bytes) -> dict[str, str]:
    """The weight map in an index's bytes. Pure.

    Raises:
        InvalidCheckpoint: it is no index, or names a file outside its folder.
    """
    try:
        table = strict_json.loads(raw)
    except ValueError as exc:
        raise InvalidCheckpoint(f"the index cannot be read: {exc}", hint="get another copy of it") from exc
    found = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(found, dict) or not found:
        raise InvalidCheckpoint("the index has no weight_map", hint="get another copy of it")
    for name, file in found.items():
        if not isinstance(file, str) or not file or file != file.replace("\0", "").strip("/") or ".." in file.split("/"):
            raise InvalidCheckpoint(f"the index puts tensor {name[:100]!r} into {str(file)[:100]!r}, which is no file beside it")
    return found


def _files(path: str) -> tuple[dict[str, str], dict[str, str] | None]:
    """Paths by their names in the checkpoint, as the index has them; and its weight map."""
    folder, index, names = path, None, list[str]()
    if os.path.isdir(path):  # noqa: PTH112 - no pathlib at import
        try:
            index, names = chosen(os.listdir(path))  # noqa: PTH208
        except InvalidCheckpoint as exc:
            raise InvalidCheckpoint(f"{path!r}: {exc.message}", hint=exc.hint) from None
    elif path.endswith(".json"):
        folder, index = os.path.split(path)
    else:
        return {os.path.split(path)[1]: path}, None
    if index is None:
        return {name: os.path.join(folder, name) for name in names}, None  # noqa: PTH118
    return _indexed(folder, index)


def _indexed(folder: str, index: str) -> tuple[dict[str, str], dict[str, str]]:
    place = os.path.join(folder, index)  # noqa: PTH118
    with open(place, "rb") as source:
        raw = source.read(_INDEX_BYTES_MAX + 1)
    if len(raw) > _INDEX_BYTES_MAX:
        raise InvalidCheckpoint(f"{place!r} has more than {_INDEX_BYTES_MAX} bytes")
    try:
        weight_map = index_of(raw)
    except InvalidCheckpoint as exc:
        raise InvalidCheckpoint(f"{place!r}: {exc.message}", hint=exc.hint) from exc
    files = {name: os.path.join(folder, name) for name in sorted(set(weight_map.values()))}  # noqa: PTH118
    missing = [name for name, file in files.items() if not os.path.exists(file)]  # noqa: PTH110
    if missing:
        count = f"{len(missing)} file{'' if len(missing) == 1 else 's'}"
        raise InvalidCheckpoint(
            f"{place!r} names {count} not there, first {missing[0]!r}",
            hint="stage or download the rest of the checkpoint",
        )
    return files, weight_map


def _shard(path: str, verify: str) -> Shard:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # so that a pipe is refused instead of waited for
    try:
        identity = identified(fd, path)
        found = None if verify == "off" else sums.find(path)
        if found is None and verify == "require":
            raise sums.no_sums(path)
        # a read of some bytes must not fetch the disk's whole read-ahead: the data has readers of its own
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        if found:
            refuse_size(path, identity.size_bytes, found)
        return _read_header(fd, path, identity, found)
    finally:
        os.close(fd)


def _read_header(fd: int, path: str, identity: Identity, found: FileSums | None) -> Shard:
    size = identity.size_bytes
    end = min(header.PREFIX_BYTES, size)
    try:
        first = _exactly(fd, path, 0, min(_PAGE, size))
        end = header.header_end(first[: header.PREFIX_BYTES], size)
        text = first[header.PREFIX_BYTES : end]
        if end > len(first):
            text += _exactly(fd, path, len(first), end)
        return Shard(path, identity, header.parse(text, size), end, found)
    except InvalidFile as exc:
        if found:
            _refuse_damage(fd, path, end, found)
        raise InvalidFile(f"{path!r}: {exc.message}", hint=exc.hint) from exc


def _refuse_damage(fd: int, path: str, end: int, found: FileSums) -> None:
    for number in range(-(-end // found.chunk_bytes)):
        start, stop = number * found.chunk_bytes, min((number + 1) * found.chunk_bytes, found.size_bytes)
        check_chunk(path, found, start, memoryview(_exactly(fd, path, start, stop)))


def identified(fd: int, path: str) -> Identity:
    """Of an open regular file. Raises: OSError: it is a directory or no regular file."""
    state = os.fstat(fd)
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.ENODEV, "not a regular file", path)
    return Identity(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


def _exactly(fd: int, path: str, start: int, stop: int) -> bytes:
    parts = []
    while start < stop:
        try:
            part = os.pread(fd, stop - start, start)
        except OSError as exc:
            raise OSError(exc.errno, f"bytes {start}-{stop} cannot be read ({exc.strerror})", path) from exc
        if not part:
            raise OSError(errno.EIO, f"the file ends at byte {start}, it had {stop} and more", path)
        parts.append(part)
        start += len(part)
    return b"".join(parts)
