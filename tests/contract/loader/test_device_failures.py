"""Loads onto a device that fail, are interrupted or closed early: nothing is kept, nobody waits; each classic bug is caught."""

from __future__ import annotations

import errno
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fakecuda import FakeCuda
from loading import View
from loading.onto_device import (
    CONTENT,
    MIB,
    SIZES,
    expected,
    few_windows,
    is_right,
    load_and_check,
    load_through_few_windows,
    load_through_one_slot,
)

from prestage.loader import Closed, CorruptFile, DeviceError, OverBudget, device_load, open_model, pages, running, verify
from prestage.loader.device_load import DeviceLoad
from prestage.loader.memory import device as device_memory
from prestage.loader.memory.cuda import CudaDriver
from prestage.loader.memory.ring import Ring, Slot
from prestage.loader.model import Model
from prestage.loader.options import Options
from prestage.loader.sums import FileSums


@pytest.fixture
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "DEVICE_BLOCK_BYTES", 2 * MIB)


def test_a_wrong_chunk_never_becomes_a_tensor_and_nothing_is_kept(view: View, fake: FakeCuda) -> None:
    view.damage(20 * MIB)
    with open_model(view.folder, framework="dlpack", device="cuda") as model, pytest.raises(CorruptFile):
        model["d"]
    gc.collect()
    fake.assert_clean()


def test_budgets_are_refused_before_anything_is_taken(view: View, fake: FakeCuda) -> None:
    with pytest.raises(OverBudget, match="device_bytes allows"):
        open_model(view.folder, framework="dlpack", device="cuda", device_bytes=MIB)
    with pytest.raises(OverBudget, match="raise pinned_bytes"):
        open_model(view.folder, framework="dlpack", device="cuda", pinned_bytes=MIB)
    fake.set("total", 10 * MIB)
    with pytest.raises(OverBudget, match="is free on the device"):
        open_model(view.folder, framework="dlpack", device="cuda")
    gc.collect()
    fake.assert_clean()


class Cache:
    """An allocator that has its memory already, as torch's has that of a model that went before."""

    piece_bytes = 0

    def __init__(self, driver: CudaDriver, size_bytes: int) -> None:
        self._whole, self._size, self._used = device_memory.Allocation(driver, size_bytes), size_bytes, 0

    def allocate(self, size_bytes: int) -> device_memory.Buffer:
        self._used += size_bytes
        assert self._used <= self._size
        return device_memory.Share(self._whole, self._used - size_bytes)

    def settle(self) -> None:
        """Nobody used it."""

    def spare_bytes(self) -> int:
        return self._size - self._used


def test_what_an_allocator_keeps_is_room_for_the_next_load(view: View, fake: FakeCuda) -> None:
    driver = fake.driver()
    fake.set("total", 64 * MIB)
    cache = Cache(driver, 48 * MIB)
    assert driver.free_bytes() < len(CONTENT)
    with pytest.raises(OverBudget, match="is free on the device"):
        open_model(view.folder, framework="dlpack", device="cuda")
    load = running.Running(Options(str(view.folder), device="cuda"), cache)
    buffer = load.buffer("d")
    assert buffer
    assert driver.read_back(buffer.address, SIZES["d"]) == expected("d")
    load.close()
    del load, buffer, cache
    gc.collect()
    fake.assert_clean()


@pytest.mark.parametrize("allocations", range(5))
def test_out_of_memory_at_any_allocation_keeps_nothing(view: View, fake: FakeCuda, allocations: int) -> None:
    fake.driver()
    fake.set("oom_after", allocations)
    with pytest.raises(DeviceError, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
        load_and_check(view, fake)
    assert caught.value.code == 2
    del caught
    gc.collect()
    fake.assert_clean()
    fake.set("oom_after", -1)
    load_and_check(view, fake)


def test_out_of_memory_in_the_middle_keeps_nothing_while_its_error_lives(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "PIECE_BYTES", 8 * MIB)
    fake.driver()
    fake.set("oom_after", 2)
    with pytest.raises(DeviceError, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
        open_model(view.folder, framework="dlpack", device="cuda")
    assert caught.traceback
    assert fake.held() == {}


@pytest.mark.usefixtures("many_blocks")
def test_no_pinned_memory_for_one_slot_ends_the_load_of_threads_that_wait_for_it(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = CudaDriver.pin

    def slow(driver: CudaDriver, size_bytes: int) -> int:
        time.sleep(0.1)
        return pin(driver, size_bytes)

    monkeypatch.setattr(CudaDriver, "pin", slow)
    fake.driver()
    fake.set("oom_after", 1)
    with pytest.raises(DeviceError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        load_and_check(view, fake, pinned_bytes=8 * MIB)
    gc.collect()
    fake.assert_clean()


@pytest.mark.usefixtures("many_blocks")
def test_waiting_for_another_thread_to_be_done_with_a_slot_is_counted(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = device_load._fill

    def slow(*args: Any, **options: Any) -> bool:
        time.sleep(0.01)
        return fill(*args, **options)

    def reached(driver: CudaDriver, event: int) -> bool:
        driver.wait(event)
        return True

    monkeypatch.setattr(device_load, "_fill", slow)
    monkeypatch.setattr(CudaDriver, "is_reached", reached)
    with open_model(view.folder, framework="dlpack", device="cuda", pinned_bytes=8 * MIB) as model:
        assert len(list(model.items())) == len(SIZES)
        waited_s = model.report()["device_wait_thread_s"]
    assert isinstance(waited_s, float)
    assert waited_s > 0.2, "over 20 blocks of 10 ms, one at a time, wait for each other"


@pytest.mark.parametrize("names", [[], ["c"]], ids=["of nothing", "of an empty tensor"])
def test_a_load_of_nothing_needs_no_slot(view: View, fake: FakeCuda, names: list[str]) -> None:
    with open_model(view.folder, framework="dlpack", device="cuda", names=names) as model:
        assert [(name, tensor.shape) for name, tensor in model.items()] == [(name, (0,)) for name in names]
    gc.collect()
    fake.assert_clean()


@pytest.mark.usefixtures("many_blocks")
def test_ctrl_c_while_threads_are_started_ends_those_that_read(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_thread, started = threading.Thread.start, list[str]()

    def interrupted(thread: threading.Thread) -> None:
        start_thread(thread)
        started.append(thread.name)
        if len(started) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_model(view.folder, framework="dlpack", device="cuda")
    assert started == [f"prestage-loader-{number}" for number in range(3)]
    gc.collect()
    fake.assert_clean()


@pytest.mark.usefixtures("many_blocks")
def test_ctrl_c_in_the_middle_of_closing_gives_everything_back_in_the_end(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpin, interrupts = CudaDriver.unpin, [False, True]

    def interrupted(driver: CudaDriver, address: int) -> None:
        unpin(driver, address)
        if interrupts and interrupts.pop(0):
            raise KeyboardInterrupt

    model = open_model(view.folder, framework="dlpack", device="cuda", pinned_bytes=64 * MIB)
    assert model["d"]
    monkeypatch.setattr(CudaDriver, "unpin", interrupted)
    while len(fake_slots(model)) < 3 and not model._running.done:  # type: ignore[union-attr] # it is open
        time.sleep(0.01)
    with pytest.raises(KeyboardInterrupt):
        model.close()
    until = time.monotonic() + 10
    while {"pinned", "streams", "events"} & fake.held().keys() and time.monotonic() < until:
        time.sleep(0.01)
    del model
    gc.collect()
    fake.assert_clean()


def fake_slots(model: Model) -> list[Slot]:
    assert model._running
    assert model._running._device
    return model._running._device._ring._slots


def test_a_file_that_cannot_be_mapped_goes_through_slots(view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENODEV, "no maps here")

    monkeypatch.setattr(pages, "map_shared", refuse)
    with few_windows(view), open_model(view.folder, framework="dlpack", device="cuda") as model:
        assert len(list(model.items())) == len(SIZES)
        assert model.report()["ways"] == {"copied from the page cache": len(CONTENT)}
    gc.collect()
    fake.assert_clean()


def test_what_is_registered_is_checked_when_nothing_can_take_it_away(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = list[int]()
    check = verify.check_chunk

    def checked(path: str, sums: FileSums, start: int, chunk: memoryview) -> None:
        registered.append(fake.get("registered"))
        check(path, sums, start, chunk)

    monkeypatch.setattr(device_load, "check_chunk", checked)
    load_through_few_windows(view, fake)
    assert min(registered) >= 1


@pytest.mark.parametrize("copy", [1, 2, 5])
def test_a_lost_context_ends_the_load_with_its_error_and_without_a_hang(view: View, fake: FakeCuda, copy: int) -> None:
    fake.driver()
    fake.set("fail_copy", copy)
    with pytest.raises(DeviceError, match="719") as caught:
        load_and_check(view, fake)
    assert caught.value.code == 719
    with pytest.raises(DeviceError, match="719"):  # and the next one says so at once
        load_and_check(view, fake)


def test_closing_in_the_middle_keeps_what_was_handed_out_and_nothing_else(view: View, fake: FakeCuda) -> None:
    model = open_model(view.folder, framework="dlpack", device="cuda", pinned_bytes=8 * MIB)
    first = model["a"]
    model.close()
    assert is_right(fake.driver(), first, "a")
    with pytest.raises(Closed):
        model["d"]
    del first, model
    gc.collect()
    fake.assert_clean()


def test_closing_waits_for_copies_that_are_on_their_way(view: View, fake: FakeCuda) -> None:
    model = open_model(view.folder, framework="dlpack", device="cuda", pinned_bytes=8 * MIB)
    running = model._running
    assert running
    while not running.done:  # then the last block's copies are still to come: nobody has waited for its slot
        time.sleep(0.01)
    model.close()
    del model, running
    gc.collect()
    fake.assert_clean()


def close_in_the_middle_of_windows(view: View, fake: FakeCuda) -> None:
    with few_windows(view):
        test_closing_waits_for_copies_that_are_on_their_way(view, fake)


def slot_reused_before_its_copy_ended(patch: pytest.MonkeyPatch) -> None:
    def acquire(ring: Ring) -> Slot:
        return ring._waited()

    patch.setattr(Ring, "acquire", acquire)


def private_map_registered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pages, "map_shared", pages.map_file)


def missing_synchronise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceLoad, "buffer", lambda load, name: load._buffers[name])


def leak_at_an_exception(patch: pytest.MonkeyPatch) -> None:
    """Somebody on the way, a traceback or a cache, still refers to the buffers."""
    kept: list[object] = []
    allocate = device_memory.DriverMemory.allocate

    def keep(memory: device_memory.DriverMemory, size_bytes: int) -> device_memory.Buffer:
        kept.append(buffer := allocate(memory, size_bytes))
        return buffer

    patch.setattr(device_memory.DriverMemory, "allocate", keep)


def double_free(patch: pytest.MonkeyPatch) -> None:
    free = device_memory._free

    def twice(driver: CudaDriver, address: int) -> None:
        free(driver, address)
        free(driver, address)

    patch.setattr(device_memory, "_free", twice)


def use_after_close(patch: pytest.MonkeyPatch) -> None:
    """Buffers go before the copies into them ended."""
    close = DeviceLoad.close

    def early(load: DeviceLoad) -> None:
        load._buffers.clear()
        close(load)

    patch.setattr(DeviceLoad, "close", early)


def io_thread_without_context(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceLoad, "attach", lambda _: None)


def pinned_memory_given_back_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CudaDriver, "wait_stream", lambda *_: None)


@pytest.mark.parametrize(
    ("plant", "run"),
    [
        (slot_reused_before_its_copy_ended, load_through_one_slot),
        (pinned_memory_given_back_too_early, close_in_the_middle_of_windows),
        (private_map_registered, load_through_few_windows),
        (missing_synchronise, load_and_check),
        (leak_at_an_exception, test_a_wrong_chunk_never_becomes_a_tensor_and_nothing_is_kept),
        (double_free, load_and_check),
        (use_after_close, test_closing_waits_for_copies_that_are_on_their_way),
        (io_thread_without_context, load_and_check),
        (pinned_memory_given_back_too_early, test_closing_waits_for_copies_that_are_on_their_way),
    ],
)
def test_a_planted_bug_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], run: Callable[[View, FakeCuda], None], view: View, fake: FakeCuda
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        with pytest.raises((AssertionError, DeviceError)):
            run(view, fake)
        gc.collect()
