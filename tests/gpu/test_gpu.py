"""On a real device: the driver suite, whole loads with and without torch, and how fast (printed, for docs/loader.md)."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from drivers import SUITE
from loading import View, bytes_tensors, data_start, encode, entry, make_view

from prestage.bench.cold import make_cold, make_warm
from prestage.loader import CorruptFile, device_load, open_model, start
from prestage.loader.memory.cuda import CudaDriver
from prestage.loader.memory.ports import Driver

MIB = 1 << 20
SIZES = {"a": 100 * MIB + 5, "b": 100, "c": 0, "d": 300 * MIB, "e": 30 * MIB}


@pytest.fixture(scope="module")
def content() -> bytes:
    return bytes_tensors(SIZES)


@pytest.fixture
def view(tmp_path: Path, content: bytes) -> View:
    return make_view(tmp_path, {"model.safetensors": content}, chunk_bytes=4 * MIB)


def expected(content: bytes, name: str) -> bytes:
    at = data_start(content) + sum(size for other, size in SIZES.items() if other < name)
    return content[at : at + SIZES[name]]


@pytest.mark.parametrize("check", SUITE)
def test_the_real_driver_passes_the_suite(check: Callable[[Driver], None], driver: CudaDriver) -> None:
    check(driver)


@pytest.mark.parametrize("state", ["cold", "hot"])
def test_every_byte_arrives_without_a_framework(view: View, content: bytes, driver: CudaDriver, state: str) -> None:
    make_cold([Path(view.file())])
    if state == "hot":
        Path(view.file()).read_bytes()
    before = driver.free_bytes()
    with open_model(view.folder, framework="dlpack", device="cuda") as model:
        for name, tensor in model.items():
            assert SIZES[name] == 0 or driver.read_back(tensor.address, SIZES[name]) == expected(content, name)
        print(model.report())
    del tensor
    gc.collect()
    assert before - driver.free_bytes() < 64 * MIB


@pytest.mark.parametrize("pays_from", [0, math.inf])
def test_resident_pages_arrive_through_slots_and_where_they_are(
    view: View, content: bytes, driver: CudaDriver, monkeypatch: pytest.MonkeyPatch, pays_from: float
) -> None:
    monkeypatch.setattr(device_load, "_PROBE_MIN_BYTES", 0)
    monkeypatch.setattr(device_load, "_PAYS_FROM", pays_from)
    monkeypatch.setattr(device_load, "_WINDOWS_BYTES", 128 * MIB)
    make_warm([Path(view.file())])
    with open_model(view.folder, framework="dlpack", device="cuda") as model:
        for name, tensor in model.items():
            assert SIZES[name] == 0 or driver.read_back(tensor.address, SIZES[name]) == expected(content, name)
        ways = model.report()["ways"]
    assert isinstance(ways, dict)
    assert ("page cache to device" in ways) == (not pays_from)


@pytest.mark.parametrize("started", [False, True])
def test_torch_gets_its_own_memory_or_what_start_read(view: View, content: bytes, driver: CudaDriver, started: bool) -> None:
    torch = pytest.importorskip("torch")
    if started:
        start(view.folder, device="cuda")
    with open_model(view.folder, device="cuda") as model:
        for name, tensor in model.items():
            assert tensor.device.type == "cuda"
            assert bytes(tensor.cpu().numpy()) == expected(content, name)
    torch.cuda.synchronize()


def test_memory_that_torch_keeps_is_room_for_the_next_load(view: View, driver: CudaDriver) -> None:
    torch = pytest.importorskip("torch")
    with open_model(view.folder, device="cuda") as model:
        tensors = dict(model.items())
    tensors.clear()
    gc.collect()
    ballast = driver.allocate(driver.free_bytes() - 200 * MIB)
    try:
        with open_model(view.folder, device="cuda") as model:
            assert sum(tensor.numel() for _, tensor in model.items()) == sum(SIZES.values())
    finally:
        driver.free(ballast)
    torch.cuda.empty_cache()


def test_a_wrong_chunk_is_found_before_the_device_shows_it(view: View, driver: CudaDriver) -> None:
    view.damage(200 * MIB)
    with open_model(view.folder, framework="dlpack", device="cuda") as model, pytest.raises(CorruptFile):
        model["d"]


def test_the_copy_engine_beside_a_bare_pinned_copy(tmp_path: Path, driver: CudaDriver) -> None:
    """Figures only, no limit: hot and cold loads of 1.3 GB, and the same machine's pinned copies. `prestage bench load --device
    cuda` has those to quote."""
    size, file = 256 * MIB, tmp_path / "model.safetensors"
    header = {f"t{number}": entry("U8", [size], number * size, (number + 1) * size) for number in range(5)}
    file.write_bytes(encode(header, os.urandom(5 * size)))
    source, target, stream = driver.pin(size), driver.allocate(size), driver.stream()
    began = time.perf_counter()
    for _ in range(8):
        driver.copy(target, source, size, stream)
    driver.wait_stream(stream)
    bare = 8 * size / (time.perf_counter() - began) / 1e9
    driver.end_stream(stream)
    driver.unpin(source)
    driver.free(target)
    for state in ("cold", "hot", "hot"):
        if state == "cold":
            make_cold([file])
        else:
            make_warm([file])
        with open_model(tmp_path, framework="dlpack", device="cuda", verify="off") as model:
            assert len(list(model.items())) == 5
            report = model.report()
        seconds, ways = report["seconds"], report["ways"]
        assert isinstance(seconds, float)
        assert isinstance(ways, dict)
        assert ("O_DIRECT" in ways) == (state == "cold")
        print(f"{state}: {5 * size / seconds / 1e9:.1f} GB/s, bare pinned copy {bare:.1f} GB/s: {report}")
