"""Loads to a CUDA device, inside the child of `bench load`. `python -m prestage.bench.load_device` says how many there are.

All of torch's and the driver's own beginnings are made by `begin`, before the clock, for every loader alike.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PINNED_BYTES = 256 << 20
_PIECE_BYTES = 32 << 20


def begin(device: str) -> Callable[[], None]:
    """Have a context and a first tensor on `device`; returns what waits until all that was asked of it is done."""
    import torch

    torch.cuda.init()
    torch.cuda.set_device(device)
    torch.zeros(1, dtype=torch.uint8, device=device)
    torch.cuda.synchronize(device)
    return lambda: torch.cuda.synchronize(device)


def instanttensor(device: str, *, buffered: bool) -> Callable[[list[str]], dict[str, Any]]:
    """By default it chooses direct I/O; buffered reads through the page cache."""
    module: Any = importlib.import_module("instanttensor")
    options = {"backend": module.BackendPolicy.BUFFERED} if buffered else {}
    index = int(device.partition(":")[2])

    def load(files: list[str]) -> dict[str, Any]:
        # it sorts the list in place
        with module.safe_open(list(files), framework="pt", device=index, **options) as opened:
            return dict(opened.tensors())

    return load


def pinned(device: str, files: list[str]) -> Callable[[list[str]], dict[str, Any]]:
    """The limit: as many bytes as `files` have, from one pinned buffer into memory that is there before the clock."""
    import torch

    size_bytes = sum(Path(file).stat().st_size for file in files)
    source = torch.empty(_PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size_bytes, dtype=torch.uint8, device=device)

    def load(_: list[str]) -> dict[str, Any]:
        for offset in range(0, size_bytes, _PIECE_BYTES):
            piece = target[offset : offset + _PIECE_BYTES]
            at = offset % _PINNED_BYTES
            piece.copy_(source[at : at + piece.numel()], non_blocking=True)
        return {}

    return load


def _count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


if __name__ == "__main__":
    print(json.dumps({"devices": _count()}))  # noqa: T201 - the answer
