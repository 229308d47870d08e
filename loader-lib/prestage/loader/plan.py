"""Which bytes of which shards are read, in which order, and what each tensor is made of. Pure.

    names, slices ─▶ Part per tensor (runs of bytes in one file) ─▶ extents per file ─▶ blocks of at most 8 MiB, in offset order

Where a file has sums, extents grow to whole chunks and take in the header; elsewhere to whole pages. So a row slice costs its
rows, a column slice its columns (gaps shorter than GAP_BYTES are read along), and verification the chunks that carry them.
Invariant: every byte of every part lies in exactly one block; blocks do not overlap and break at whole chunks.
"""

from __future__ import annotations

import bisect
import mmap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prestage.loader.checkpoint import Checkpoint, Shard
from prestage.loader.errors import BadIndex, UnknownTensor, Unsupported, UnsupportedDtype, VerifyUnavailable
from prestage.loader.header import TensorInfo

BLOCK_BYTES = 8 << 20
"""What a thread reads at a time: 8 threads x 8 MiB keep a disk at its limit (measured, docs/loader.md)."""
PAGE_BYTES = mmap.PAGESIZE
"""What O_DIRECT and mappings are aligned to: 64 KiB on many an arm64 host."""
DEVICE_BLOCK_BYTES = 32 << 20
"""The same for what goes to a device, by pinned slots of a quarter of it: fewer blocks to take, look at and land."""
GAP_BYTES = 16 << 10
"""Skipping less costs more than reading it: a request of its own is 5-10 us of CPU, 16 KiB at 3 GB/s are 5 us."""

Names = Callable[[str], bool] | Collection[str] | None
Slices = Mapping[str, "slice | tuple[slice, ...]"] | None
Extent = tuple[int, int]
"""[start, stop) in bytes from the start of a file."""


@dataclass(frozen=True, slots=True)
class Part:
    """What was asked for of one tensor: runs of `run_bytes` in the shard, `stride_bytes` apart, the first at byte `start`."""

    info: TensorInfo
    shard: int
    shape: tuple[int, ...]
    start: int
    run_bytes: int
    stride_bytes: int
    runs: int

    @property
    def size_bytes(self) -> int:
        """Of the result, before any cast."""
        return self.runs * self.run_bytes

    @property
    def stop(self) -> int:
        """One past the last byte in the file."""
        return self.start + (self.runs - 1) * self.stride_bytes + self.run_bytes if self.size_bytes else self.start


@dataclass(frozen=True, slots=True)
class Block:
    """What is read at once: extents of one shard inside a window of the block size."""

    shard: int
    extents: tuple[Extent, ...]

    @property
    def start(self) -> int:
        """First byte in the file."""
        return self.extents[0][0]

    @property
    def stop(self) -> int:
        """One past the last byte; between extents there may be bytes that nobody reads."""
        return self.extents[-1][1]

    @property
    def size_bytes(self) -> int:
        """That are read."""
        return sum(stop - start for start, stop in self.extents)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a load will do."""

    checkpoint: Checkpoint
    parts: dict[str, Part]
    """By name, in the order of their bytes."""
    blocks: tuple[Block, ...]
    """In the order in which they are read."""
    by_shard: tuple[tuple[Part, ...], ...]
    """Parts that have bytes, by shard, in the order of their bytes."""
    starts: tuple[tuple[int, int], ...]
    """(shard, first byte) of each block, for looking up."""

    @property
    def size_bytes(self) -> int:
        """Of all results."""
        return sum(part.size_bytes for part in self.parts.values())

    @property
    def read_bytes(self) -> int:
        """That the files are asked for."""
        return sum(block.size_bytes for block in self.blocks)

    def needed(self, part: Part) -> range:
        """Numbers of the blocks that carry a part."""
        return self.blocks_of(part.shard, part.start, part.stop)

    def blocks_of(self, shard: int, start: int, stop: int) -> range:
        """Numbers of the blocks that carry the bytes [start, stop) of a shard; the first byte lies in one."""
        if start >= stop:
            return range(0)
        first = max(bisect.bisect_right(self.starts, (shard, start)) - 1, 0)
        return range(first, bisect.bisect_left(self.starts, (shard, stop)))

    def within(self, block: Block) -> Iterator[tuple[str, Part]]:
        """Parts that have bytes between a block's first and last."""
        parts = self.by_shard[block.shard]
        first = max(bisect.bisect_right(parts, block.start, key=lambda part: part.start) - 1, 0)
        for at in range(first, len(parts)):
            part = parts[at]
            if part.start >= block.stop:
                return
            if part.stop > block.start:
                yield part.info.name, part

    def count_of(self, shard: int) -> int:
        """How many blocks a shard has."""
        return bisect.bisect_left(self.starts, (shard + 1, 0)) - bisect.bisect_left(self.starts, (shard, 0))

    def heads(self, shard: int) -> range:
        """Numbers of the blocks that carry a shard's header; empty where it is not verified."""
        found = self.checkpoint.shards[shard]
        if found.sums is None:
            return range(0)
        first = bisect.bisect_left(self.starts, (shard, 0))
        return range(first, bisect.bisect_left(self.starts, (shard, found.header_end)))


def plan(checkpoint: Checkpoint, names: Names = None, slices: Slices = None, *, block_bytes: int = BLOCK_BYTES) -> Plan:
    """Plan the load of `names` (all, those in a collection, or those that a function says yes to), cut by `slices`.

    Raises:
        UnknownTensor: `names` or `slices` ask for what is not there.
        BadIndex, Unsupported: a slice that does not fit, or is none of rows and one other dimension, in steps of 1.
        VerifyUnavailable: chunks that are no whole pages.
    """
    parts = dict(_parts(checkpoint, names, dict(slices or {})))
    by_shard: list[list[Part]] = [[] for _ in checkpoint.shards]
    for part in parts.values():
        if part.size_bytes:
            by_shard[part.shard].append(part)
    blocks = tuple(
        block
        for number, shard in enumerate(checkpoint.shards)
        if by_shard[number]
        for block in _blocks(number, _extents(shard, by_shard[number]), window(shard, block_bytes))
    )
    starts = tuple((block.shard, block.start) for block in blocks)
    return Plan(checkpoint, parts, blocks, tuple(map(tuple, by_shard)), starts)


def _parts(checkpoint: Checkpoint, names: Names, slices: dict[str, slice | tuple[slice, ...]]) -> Iterator[tuple[str, Part]]:
    aliases = checkpoint.aliases
    wanted: Collection[str] | None = None
    if names is not None and not callable(names):
        _refuse_unknown(checkpoint, names)
        wanted = {aliases.get(name, name) for name in names}
    _refuse_unknown(checkpoint, slices)
    slices = {aliases.get(name, name): index for name, index in slices.items()}
    for name, (shard, info) in checkpoint.places.items():
        if (wanted is None or name in wanted) and not (callable(names) and not names(name)):
            yield name, cut(info, shard, slices[name]) if name in slices else whole(info, shard)


def _refuse_unknown(checkpoint: Checkpoint, names: Collection[str]) -> None:
    for name in names:
        if name not in checkpoint.places and name not in checkpoint.aliases:
            raise UnknownTensor(f"{checkpoint.name!r} does not contain tensor {name}", hint="keys() lists what it holds")


def whole(info: TensorInfo, shard: int) -> Part:
    """All of a tensor."""
    return Part(info, shard, info.shape, info.start, info.stop - info.start, info.stop - info.start, 1)


def cut(info: TensorInfo, shard: int, index: slice | tuple[slice, ...]) -> Part:
    """Rows and at most one other dimension of a tensor.

    Raises:
        BadIndex, Unsupported
    """
    bounds = _bounds(info, index)
    shape = tuple(high - low for low, high in bounds)
    inner = [dim for dim in range(1, len(bounds)) if shape[dim] != info.shape[dim]]
    if len(inner) > 1:
        raise Unsupported(
            f"slices of {info.name!r} cut dimensions {inner}", hint="cut rows and one other dimension; slice the result for more"
        )
    if not _count(info.shape):
        return Part(info, shard, shape, info.start, 0, 0, 1)
    row = _count(info.shape[1:])
    start = info.start + _bytes(info, bounds[0][0] * row)
    if not inner:
        size = _bytes(info, shape[0] * row)
        return Part(info, shard, shape, start, size, size, 1)
    dim = inner[0]
    unit = _count(info.shape[dim + 1 :])
    runs = shape[0] * _count(info.shape[1:dim])
    run, stride = _bytes(info, shape[dim] * unit), _bytes(info, info.shape[dim] * unit)
    if not runs or not run:
        return Part(info, shard, shape, start, 0, 0, 1)
    return Part(info, shard, shape, start + _bytes(info, bounds[dim][0] * unit), run, stride, runs)


def _bounds(info: TensorInfo, index: slice | tuple[slice, ...]) -> list[Extent]:
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) > len(info.shape):
        raise BadIndex(f"{len(parts)} slices for {info.name!r} of shape {list(info.shape)}")
    bounds = []
    for dim, size in enumerate(info.shape):
        part = parts[dim] if dim < len(parts) else slice(None)
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise Unsupported(f"slices of {info.name!r} hold {part!r}", hint="use slices in steps of 1")
        for bound in (part.start, part.stop):
            if bound is not None and not -size <= bound <= size:
                raise BadIndex(f"slice {part!r} is out of bounds for dimension {dim} of {info.name!r}, size {size}")
        low, high, _ = part.indices(size)
        bounds.append((low, max(low, high)))
    return bounds


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _bytes(info: TensorInfo, elements: int) -> int:
    bits = elements * info.dtype.bits
    if bits % 8:
        raise UnsupportedDtype(f"a slice of {info.name!r} ({info.dtype.code}) does not fall on whole bytes")
    return bits // 8


def _extents(shard: Shard, parts: Sequence[Part]) -> list[Extent]:
    """In offset order, disjoint, aligned to pages or chunks."""
    grain = shard.sums.chunk_bytes if shard.sums else PAGE_BYTES
    gap = max(GAP_BYTES, grain if shard.sums else 0)
    wanted = [(0, shard.header_end)] if shard.sums else []
    for part in parts:
        if part.runs == 1 or part.stride_bytes - part.run_bytes <= gap:
            wanted.append((part.start, part.stop))
        else:
            starts = range(part.start, part.start + part.runs * part.stride_bytes, part.stride_bytes)
            wanted += [(start, start + part.run_bytes) for start in starts]
    merged: list[list[int]] = []
    for start, stop in wanted:
        low, high = start - start % grain, min(stop + -stop % grain, shard.size_bytes)
        if merged and low - merged[-1][1] <= (0 if shard.sums else GAP_BYTES):
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return [(start, stop) for start, stop in merged]


def pieces(block: Block, size_bytes: int) -> Iterator[Block]:
    """The block, cut where whole `size_bytes` (of `window`) from the start of the file end."""
    return _blocks(block.shard, block.extents, size_bytes)


def window(shard: Shard, block_bytes: int) -> int:
    """About `block_bytes` in whole chunks. Raises: VerifyUnavailable: they are no whole pages."""
    if shard.sums is None:
        return block_bytes
    chunk = shard.sums.chunk_bytes
    if chunk % PAGE_BYTES:
        raise VerifyUnavailable(f"the sums of {shard.path!r} have chunks of {chunk} bytes, not whole pages", hint="use load_file")
    return max(block_bytes // chunk, 1) * chunk


def _blocks(number: int, extents: Sequence[Extent], window: int) -> Iterator[Block]:
    held: list[Extent] = []
    for start, stop in extents:
        at = start
        while at < stop:
            border = at - at % window + window
            if held and held[0][0] // window != at // window:
                yield Block(number, tuple(held))
                held = []
            held.append((at, min(border, stop)))
            at = border
    if held:
        yield Block(number, tuple(held))
