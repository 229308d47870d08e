"""What a load of a checkpoint would do now, file by file, and why: for a person who wonders where time goes. Reads no data."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from prestage.loader import checkpoint as checkpoints
from prestage.loader import residency
from prestage.loader.memory.budget import Budget, default_host_bytes
from prestage.loader.plan import Plan, plan
from prestage.loader.source import Source
from prestage.loader.ways import Destination, Way, device_way, host_way

_WHY = {
    Way.MAPPED: "resident: shown as it is, no copy",
    Way.POPULATED: "not resident, and to be shared or over the budget: read once into the page cache",
    Way.DIRECT: "not resident, one reader: past the page cache at the disk's limit",
    Way.COPIED: "resident or shared, into memory of its own",
    Way.REGISTERED: "resident: the copy engine reads the page cache, if the driver takes it",
}


@dataclass(frozen=True, slots=True)
class FileExplanation:
    """One file."""

    path: str
    bytes: int
    tensors: int
    sums: bool
    resident_share: float
    """Of the bytes that would be read, by samples."""
    counted_resident_bytes: int | None
    """Of the whole file, by the kernel's count; None where that must not be believed (foreign owner, overlayfs, old kernel)."""
    ways: dict[str, int]
    """Bytes by way."""
    why: str
    """Of the way that most bytes take."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A whole checkpoint."""

    path: str
    bytes: int
    tensors: int
    artifact: str | None
    device: str
    readers: int
    host_bytes: int
    """That private memory may take."""
    files: tuple[FileExplanation, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        said = [
            f"{self.path}: {self.bytes / 1e9:.2f} GB, {self.tensors} tensors, {len(self.files)} files, "
            f"{self.artifact or 'no sums: unverified'}",
            f"to {self.device}, {self.readers} reader{'s' if self.readers > 1 else ''}, "
            f"private host memory up to {self.host_bytes / 1e9:.1f} GB",
        ]
        for file in self.files:
            ways = ", ".join(f"{way} {size / 1e9:.2f} GB" for way, size in file.ways.items())
            said.append(
                f"  {os.path.basename(file.path)}  {file.resident_share * 100:.0f} % resident  {ways}  ({file.why})"  # noqa: PTH119
            )
        return said


def explain(
    path: str, *, device: str = "cpu", readers: int = 1, destination: str = "auto", host_bytes: int | None = None
) -> Explanation:
    """Read the headers and sample the page cache.

    Raises:
        as `open_model`, but for what only reading the data shows.
    """
    found = checkpoints.read(path)
    made = plan(found)
    budget = Budget(default_host_bytes() if host_bytes is None else host_bytes)
    files = [_file(made, number, device, readers, Destination(destination), budget) for number in range(len(found.shards))]
    return Explanation(path, made.size_bytes, len(made.parts), found.artifact, device, readers, budget.limit_bytes, tuple(files))


def _file(made: Plan, number: int, device: str, readers: int, destination: Destination, budget: Budget) -> FileExplanation:
    shard = made.checkpoint.shards[number]
    source = Source(shard)
    ways: dict[Way, int] = {}
    resident = 0
    try:
        for block in made.blocks:
            if block.shard != number:
                continue
            there = source.is_resident(block.start, block.stop)
            resident += block.size_bytes if there else 0
            if device == "cpu":
                room = there or budget.take(block.size_bytes)
                way = host_way(destination, resident=there, readers=readers, has_room=room)
            else:
                way = device_way(resident=there, readers=readers, registers=False)
            ways[way] = ways.get(way, 0) + block.size_bytes
        counted = residency.counted_bytes(source.cached())
    finally:
        source.close()
    total = sum(ways.values())
    return FileExplanation(
        path=shard.path,
        bytes=shard.size_bytes,
        tensors=len(shard.header.tensors),
        sums=shard.sums is not None,
        resident_share=resident / total if total else 1.0,
        counted_resident_bytes=counted,
        ways={way.value: size for way, size in ways.items()},
        why=_WHY[max(ways, key=lambda way: ways[way])] if ways else "nothing to read",
    )
