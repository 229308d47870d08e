"""Loads onto a device, for tests: one file, what it holds, and a load that must come out right."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakecuda import FakeCuda

from loading import View, bytes_tensors, data_start
from prestage.loader import device_load, open_model, running
from prestage.loader.memory.cuda import CudaDriver
from prestage.loader.memory.dlpack import RawTensor

MIB = 1 << 20
SIZES = {"a": 9 * MIB + 5, "b": 100, "c": 0, "d": 30 * MIB, "e": 3 * MIB}
CONTENT = bytes_tensors(SIZES)


def expected(name: str) -> bytes:
    at = data_start(CONTENT) + sum(size for other, size in SIZES.items() if other < name)
    return CONTENT[at : at + SIZES[name]]


def load_and_check(view: View, fake: FakeCuda, **options: object) -> None:
    """The suite: every tensor right while the model is open and after it was closed, and nothing held in the end."""
    driver = fake.driver()
    tensors: dict[str, RawTensor] = {}
    with open_model(view.folder, framework="dlpack", device="cuda", **options) as model:  # type: ignore[arg-type] # of the test
        for name, tensor in model.items():
            assert tensor.device == (2, 0)
            assert is_right(driver, tensor, name), name
            tensors[name] = tensor
    assert list(tensors) == list(SIZES)
    for name, tensor in tensors.items():
        assert is_right(driver, tensor, name), name
    assert set(fake.held()) == {"device"}
    tensors.clear()
    del tensor
    gc.collect()
    fake.assert_clean()


def load_through_one_slot(view: View, fake: FakeCuda) -> None:
    load_and_check(view, fake, pinned_bytes=8 * MIB)


def load_through_few_windows(view: View, fake: FakeCuda) -> None:
    with few_windows(view):
        load_and_check(view, fake)


@contextlib.contextmanager
def few_windows(view: View) -> Iterator[None]:
    """Resident, and all blocks by way of two windows of 2 MiB."""
    Path(view.file()).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_load, "_PROBE_MIN_BYTES", 0)
        patch.setattr(device_load, "_PAYS_FROM", 0)
        patch.setattr(device_load, "_WINDOWS_BYTES", 4 * MIB)
        patch.setattr(running, "DEVICE_BLOCK_BYTES", 2 * MIB)
        patch.setattr(running, "DEVICE_THREADS", 1)
        yield


def is_right(driver: CudaDriver, tensor: RawTensor, name: str) -> bool:
    """Not an `==` in an assert: of megabytes that differ pytest would make a diff, which takes minutes."""
    return read(driver, tensor, name) == expected(name)


def read(driver: CudaDriver, tensor: RawTensor, name: str) -> bytes:
    return driver.read_back(tensor.address, SIZES[name]) if SIZES[name] else b""
