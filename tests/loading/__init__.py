"""Safetensors files and views for the loader's tests, written without the loader and without the safetensors library."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

ARTIFACT = "sha256:" + "ab" * 32
_PIECE_BYTES = 128 << 20


def encode(header: object, data: bytes = b"") -> bytes:
    """A file with this header: JSON text as given when it is bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def bytes_tensors(sizes: Mapping[str, int], seed: int = 1) -> bytes:
    """A file of U8 vectors of these sizes, random bytes, the data 8-aligned as the safetensors library writes it."""
    header: dict[str, object] = {}
    offset = 0
    for name, size in sizes.items():
        header[name] = entry("U8", [size], offset, offset + size)
        offset += size
    text = json.dumps(header).encode()
    numbers = random.Random(seed)
    # in pieces: CPython 3.12's randbytes overflows from 256 MiB on
    data = b"".join(numbers.randbytes(min(_PIECE_BYTES, offset - at)) for at in range(0, offset, _PIECE_BYTES))
    return encode(text + b" " * (-len(text) % 8), data)


def data_start(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def sums_of(files: Mapping[str, bytes], chunk_bytes: int) -> dict[str, object]:
    entries = {}
    for name, content in files.items():
        chunks = (content[at : at + chunk_bytes] for at in range(0, len(content), chunk_bytes))
        entries[name] = {"size": len(content), "chunks": "".join(xxhash.xxh3_128_hexdigest(chunk) for chunk in chunks)}
    return {"format": 1, "artifact": ARTIFACT, "algorithm": "xxh3-128", "chunk_bytes": chunk_bytes, "files": entries}


@dataclass(frozen=True, slots=True)
class View:
    """A view and its sums as docs/format.md lays them out."""

    folder: Path
    sums: Path

    def file(self, name: str = "model.safetensors") -> str:
        return str(self.folder / name)

    def damage(self, offset: int, name: str = "model.safetensors") -> None:
        """Flip one bit of one byte on disk."""
        with open(self.folder / name, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))


def make_view(root: Path, files: Mapping[str, bytes], *, chunk_bytes: int = 4096) -> View:
    """`root`/current with the files, `root`/.prestage/current/sums beside it."""
    view = View(root / "current", root / ".prestage" / "current" / "sums")
    view.sums.parent.mkdir(parents=True)
    for name, content in files.items():
        (view.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (view.folder / name).write_bytes(content)
    view.sums.write_text(json.dumps(sums_of(files, chunk_bytes)))
    return view
