"""One load in a process of its own: `python -m prestage.bench.load_run VARIANT FRAMEWORK DEVICE FILE...`.

Imports come before the clock. It prints READY, waits for a line (meanwhile the parent hands over memory that was just faulted
in), loads, reads every byte of what was returned, and prints one JSON line:

    {"load_s", "touch_s", "cpu_s", "sum", "beyond_bytes": peak of resident memory above what was there before and the tensors
     (not those on a device), "disk_bytes": what /proc/self/io says was fetched from the disk}

Variants: `VARIANTS`; `raw-N` (N threads, O_DIRECT, 8 MiB each into a buffer of its own, nothing kept) and `xxh3` (the chunk sums
of the mapped files on one thread) return nothing and read every byte; `pinned` returns nothing and reads no file. On a device a
load ends when all that was asked of it is done, and the sum is made there.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from prestage.bench import load_device
from prestage.bench.load_rows import PINNED

CHUNK_BYTES = 4 << 20
_BLOCK_BYTES = 8 << 20
_MADV_HUGEPAGE = 14
Load = Callable[[list[str]], dict[str, Any]]


def measure(
    variant: str, framework: str, files: list[str], *, device: str = "cpu", ready: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Load every file, then read every byte of what was returned; `ready` is called when all is imported."""
    total = _sum_of(framework)
    wait = _begin(framework, device, total)
    load = _loader(variant, framework, device, files)
    ready()
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before, fetched = _status("VmRSS"), _fetched()
    cpu, began = time.process_time(), time.perf_counter()
    loaded = load(files)
    wait()
    there = time.perf_counter()
    checksum = total(loaded.values())
    done = time.perf_counter()
    tensors = sum(getattr(tensor, "nbytes", 0) for tensor in loaded.values()) if device == "cpu" else 0
    return {
        "load_s": there - began,
        "touch_s": done - there,
        "cpu_s": time.process_time() - cpu,
        "sum": checksum,
        "beyond_bytes": max(_status("VmHWM") - before - tensors, 0),
        "disk_bytes": _fetched() - fetched,
    }


def _prestage(framework: str, device: str, *, verify: str, destination: str = "auto", readers: int = 1) -> Load:
    from prestage.loader import open_model, started  # noqa: F401 - imported before the clock, as the rivals are

    __import__("prestage.loader.torch_tensors" if framework == "pt" else "prestage.loader.numpy_arrays")
    if device != "cpu":
        for module in ("device_load", "memory.cuda", "memory.device"):
            importlib.import_module(f"prestage.loader.{module}")
    options: dict[str, Any] = {"framework": framework, "device": device, "verify": verify}

    def load(files: list[str]) -> dict[str, Any]:
        folder = os.path.split(files[0])[0]
        with open_model(folder, **options, destination=destination, readers=readers) as model:
            return dict(model.items())

    return load


def _safetensors(framework: str, device: str, *, backend: str) -> Load:
    if framework == "pt":
        from safetensors.torch import load_file as load_torch

        options = {"device": device, "backend": backend}
        return lambda files: {name: each for file in files for name, each in load_torch(file, **options).items()}
    from safetensors.numpy import load_file as load_numpy

    return lambda files: {name: each for file in files for name, each in load_numpy(file, backend=backend).items()}


def _slices(framework: str, _: str) -> Load:
    """As transformers 5 loads: a job for each tensor, `get_slice(name)[...]` on four threads."""
    from concurrent.futures import ThreadPoolExecutor

    opener: Any = importlib.import_module("safetensors").safe_open

    def load(files: list[str]) -> dict[str, Any]:
        handles = [opener(file, framework) for file in files]
        jobs = [(name, handle.get_slice(name)) for handle in handles for name in handle.offset_keys()]
        with ThreadPoolExecutor(4) as pool:
            return dict(pool.map(lambda job: (job[0], job[1][...]), jobs))

    return load


def _fastsafetensors(_: str, device: str) -> Load:
    from fastsafetensors import fastsafe_open

    kept: list[object] = []

    def load(files: list[str]) -> dict[str, Any]:
        handle = fastsafe_open(files, nogds=True, device=device)
        kept.append(handle)
        handle.__enter__()
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - no mapping

    return load


def _runai(_: str, device: str) -> Load:
    from runai_model_streamer import SafetensorsStreamer

    def load(files: list[str]) -> dict[str, Any]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, device=device)
            return {name: tensor.to(device) for name, tensor in streamer.get_tensors()}

    return load


def _hash(_: str, __: str) -> Load:
    import xxhash

    def load(files: list[str]) -> dict[str, Any]:
        for file in files:
            with (
                open(file, "rb") as source,
                mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as pages,
                memoryview(pages) as view,
            ):
                for offset in range(0, len(view), CHUNK_BYTES):
                    with view[offset : offset + CHUNK_BYTES] as chunk:
                        xxhash.xxh3_128_digest(chunk)
        return {}

    return load


def _raw(depth: int) -> Load:
    def load(files: list[str]) -> dict[str, Any]:
        jobs: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        handles = [os.open(file, os.O_RDONLY | os.O_DIRECT) for file in files]
        for handle in handles:
            for offset in range(0, os.fstat(handle).st_size, _BLOCK_BYTES):
                jobs.put((handle, offset))
        for _ in range(depth):
            jobs.put(None)

        def read() -> None:
            with mmap.mmap(-1, _BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as buffer:
                buffer.madvise(_MADV_HUGEPAGE)  # scattered 4 KiB pages cut a request into hundreds
                while job := jobs.get():
                    os.preadv(job[0], [buffer], job[1])

        threads = [threading.Thread(target=read) for _ in range(depth)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for handle in handles:
            os.close(handle)
        return {}

    return load


VARIANTS: dict[str, Callable[[str, str], Load]] = {
    "safetensors": partial(_safetensors, backend="mmap"),
    "safetensors-pread": partial(_safetensors, backend="pread"),
    "transformers": _slices,
    "fastsafetensors": _fastsafetensors,
    "runai": _runai,
    "instanttensor": lambda _, device: load_device.instanttensor(device, buffered=False),
    "instanttensor-buffered": lambda _, device: load_device.instanttensor(device, buffered=True),
    "prestage": partial(_prestage, verify="off"),
    "prestage-verified": partial(_prestage, verify="require"),
    "prestage-mapped": partial(_prestage, verify="off", destination="mapped"),
    "prestage-private": partial(_prestage, verify="off", destination="private"),
    "prestage-shared": partial(_prestage, verify="off", readers=4),
    "xxh3": _hash,
}
"""By framework and device."""


def _begin(framework: str, device: str, total: Callable[[Iterable[Any]], int]) -> Callable[[], None]:
    """Import the framework and wake the device, its sum too; returns what waits for it."""
    if framework == "np":
        _know_bfloat16()
        return lambda: None
    import torch

    torch.set_num_threads(1)
    if device == "cpu":
        return lambda: None
    wait = load_device.begin(device)
    total([torch.zeros(9, dtype=torch.uint8, device=device)])
    return wait


def _loader(variant: str, framework: str, device: str, files: list[str]) -> Load:
    if variant.startswith("raw-"):
        return _raw(int(variant.removeprefix("raw-")))
    if variant == PINNED:
        return load_device.pinned(device, files)
    return VARIANTS[variant](framework, device)


def _know_bfloat16() -> None:
    try:
        __import__("ml_dtypes")
    except ModuleNotFoundError:
        return


def _sum_of(framework: str) -> Callable[[Iterable[Any]], int]:
    """Over all bytes, as int64. The framework is imported already, so nothing but the sum is on the clock."""
    return _torch_sum if framework == "pt" else _numpy_sum


def _torch_sum(tensors: Iterable[Any]) -> int:
    import torch

    sums = []
    for tensor in tensors:
        raw = tensor.reshape(-1).view(torch.uint8)
        if raw.storage_offset() % 8 or (raw.is_cuda and raw.data_ptr() % 8):
            raw = raw.clone()  # a GPU reads no int64 elsewhere
        even = raw.numel() - raw.numel() % 8
        sums.append(raw[:even].view(torch.int64).sum())
        if even < raw.numel():
            sums.append(raw[even:].sum())
    # one wait for a device, not one a tensor
    return int(torch.stack(sums).sum()) % 2**64 if sums else 0


def _numpy_sum(arrays: Iterable[Any]) -> int:
    import numpy as np

    total = 0
    for array in arrays:
        raw = array.reshape(-1).view(np.uint8)
        even = raw.size - raw.size % 8
        total += int(raw[:even].view(np.int64).sum()) + int(raw[even:].sum())
    return total % 2**64


def _status(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))


def _fetched() -> int:
    with open("/proc/self/io") as counters:
        return next(int(line.split()[1]) for line in counters if line.startswith("read_bytes:"))


def _wait_for_go() -> None:
    print("READY", flush=True)  # noqa: T201 - to the parent
    sys.stdin.readline()


if __name__ == "__main__":
    _, named, framework, device, *paths = sys.argv
    print(json.dumps(measure(named, framework, paths, device=device, ready=_wait_for_go)))  # noqa: T201 - the answer
