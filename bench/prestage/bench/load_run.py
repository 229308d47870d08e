"""One load in a process of its own: `python -m prestage.bench.load_run VARIANT FRAMEWORK FILE...` prints one JSON line.

    {"load_s": …, "touch_s": …, "cpu_s": …, "sum": …}      imports come before the clock; the sum is over all bytes, as int64

Variants: `ours` (verify off), `verified` (verify require), `safetensors` (its default, mmap), `xxh3` (the chunk sums of the
mapped files and nothing else, on one thread), `xxh3-threads` (the same on as many threads as ours uses).
"""

from __future__ import annotations

import json
import mmap
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

CHUNK_BYTES = 4 << 20
Load = Callable[[str], dict[str, Any]]


def measure(variant: str, framework: str, files: list[str]) -> dict[str, float]:
    """Load every file, then read every byte of what was returned."""
    load, total = _loader(variant, framework), _sum_of(variant, framework)
    cpu = time.process_time()
    began = time.perf_counter()
    loaded = [load(file) for file in files]
    ready = time.perf_counter()
    checksum = total(tensor for tensors in loaded for tensor in tensors.values())
    done = time.perf_counter()
    return {"load_s": ready - began, "touch_s": done - ready, "cpu_s": time.process_time() - cpu, "sum": checksum}


def _loader(variant: str, framework: str) -> Load:
    if variant.startswith("xxh3"):
        return _hash_threads if variant.endswith("threads") else _hash
    if framework == "np":
        _know_bfloat16()
    if variant == "safetensors":
        return _safetensors(framework)
    verify = "require" if variant == "verified" else "off"
    if framework == "pt":
        from prestage.loader import torch as ours_torch

        return lambda file: ours_torch.load_file(file, verify=verify)
    from prestage.loader import numpy as ours_numpy

    return lambda file: ours_numpy.load_file(file, verify=verify)


def _safetensors(framework: str) -> Load:
    if framework == "pt":
        from safetensors.torch import load_file as load_torch

        return lambda file: dict(load_torch(file))
    from safetensors.numpy import load_file as load_numpy

    return lambda file: dict(load_numpy(file))


def _know_bfloat16() -> None:
    try:
        __import__("ml_dtypes")
    except ModuleNotFoundError:
        return


def _hash(file: str) -> dict[str, Any]:
    import xxhash

    with open(file, "rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as pages, memoryview(pages) as view:
        for offset in range(0, len(view), CHUNK_BYTES):
            with view[offset : offset + CHUNK_BYTES] as chunk:
                xxhash.xxh3_128_digest(chunk)
    return {}


def _hash_threads(file: str) -> dict[str, Any]:
    import xxhash

    from prestage.loader.sweep import sweep, windows

    with open(file, "rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as pages, memoryview(pages) as view:

        def work(start: int, stop: int) -> None:
            for offset in range(start, stop, CHUNK_BYTES):
                with view[offset : min(offset + CHUNK_BYTES, stop)] as chunk:
                    xxhash.xxh3_128_digest(chunk)

        sweep(windows(0, len(view), CHUNK_BYTES), work)
    return {}


def _sum_of(variant: str, framework: str) -> Callable[[Iterable[Any]], int]:
    """The framework is imported by the loader already, so nothing but the sum is on the clock."""
    if variant.startswith("xxh3"):
        return lambda _: 0
    return _torch_sum if framework == "pt" else _numpy_sum


def _torch_sum(tensors: Iterable[Any]) -> int:
    import torch

    total = 0
    for tensor in tensors:
        raw = tensor.reshape(-1).view(torch.uint8)
        even = raw.numel() - raw.numel() % 8
        total += int(raw[:even].view(torch.int64).sum()) + int(raw[even:].sum())
    return total % 2**64


def _numpy_sum(arrays: Iterable[Any]) -> int:
    import numpy as np

    total = 0
    for array in arrays:
        raw = array.reshape(-1).view(np.uint8)
        even = raw.size - raw.size % 8
        total += int(raw[:even].view(np.int64).sum()) + int(raw[even:].sum())
    return total % 2**64


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], sys.argv[3:])))  # noqa: T201 - the answer to the parent
