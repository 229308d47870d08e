"""Full-object checksums that an origin states, from pieces in any order. Native code, releases the GIL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

from prestage.cacher.errors import Bug

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from prestage.cacher.transfer.ports import PieceRecord

ALGORITHMS = ("crc64nvme", "crc32c", "crc32")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One combinable CRC."""

    name: str
    hex_digits: int
    update: Callable[[Buffer, int], int]
    combine: Callable[[int, int, int], int]


@cache
def algorithm(name: str) -> Algorithm:
    """The CRC called `name`; loads the native library at the first call."""
    from awscrt import checksums

    if name not in ALGORITHMS:
        raise Bug(f"no checksum algorithm {name!r}")
    update = cast("Callable[[Buffer, int], int]", getattr(checksums, name))
    combine = cast("Callable[[int, int, int], int]", getattr(checksums, f"combine_{name}"))
    return Algorithm(name, 16 if name == "crc64nvme" else 8, update, combine)


def whole(name: str, records: Iterable[PieceRecord]) -> str:
    """`<name>:<hex>` of the file from its pieces, in order."""
    crc, value = algorithm(name), 0
    for record in records:
        value = crc.combine(value, record.checksum, record.size_bytes)
    return f"{name}:{value:0{crc.hex_digits}x}"
