"""What every implementation of the driver seam does: one suite for host memory, the fake CUDA driver, and a real one."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import pytest

from prestage.loader import pages
from prestage.loader.errors import DeviceError
from prestage.loader.memory.host import HostMemory
from prestage.loader.memory.ports import ALIGN_BYTES, Driver

SIZE = 1 << 20


def fill(address: int, size: int, seed: int) -> bytes:
    content = bytes((seed + at * 7) % 251 for at in range(4096)) * (size // 4096)
    ctypes.memmove(address, content, size)
    return content


def copies_arrive_and_not_before_their_event(driver: Driver) -> None:
    target, source = driver.allocate(SIZE), driver.pin(SIZE)
    stream, event = driver.stream(), driver.event()
    driver.wait(event)
    content = fill(source, SIZE, 1)
    driver.copy(target, source, SIZE, stream)
    driver.record(event, stream)
    driver.wait(event)
    assert driver.read_back(target, SIZE) == content
    driver.end_event(event)
    driver.end_stream(stream)
    driver.unpin(source)
    driver.free(target)


def rows_arrive_with_their_pitches(driver: Driver) -> None:
    target, source, stream = driver.allocate(SIZE), driver.pin(SIZE), driver.stream()
    content = fill(source, SIZE, 2)
    driver.copy_rows(target, source + 64, width=100, rows=300, target_pitch=100, source_pitch=1000, stream=stream)
    driver.wait_stream(stream)
    assert driver.read_back(target, 30_000) == b"".join(content[64 + row * 1000 :][:100] for row in range(300))
    driver.end_stream(stream)
    driver.unpin(source)
    driver.free(target)


def memory_is_aligned_and_distinct(driver: Driver) -> None:
    addresses = [driver.allocate(1000) for _ in range(5)]
    assert all(address % ALIGN_BYTES == 0 for address in addresses)
    assert len(set(addresses)) == 5
    pinned = driver.pin(5000)
    assert pinned % pages.PAGE == 0
    driver.unpin(pinned)
    for address in addresses:
        driver.free(address)


def what_is_allocated_is_no_longer_free(driver: Driver) -> None:
    before = driver.free_bytes()
    address = driver.allocate(64 << 20)
    assert before - driver.free_bytes() >= 32 << 20
    driver.free(address)


def too_much_is_an_error_and_takes_nothing(driver: Driver) -> None:
    with pytest.raises(DeviceError) as caught:
        driver.allocate(1 << 45)
    assert caught.value.code == 2


def registered_pages_are_read_in_place(driver: Driver) -> None:
    if not driver.reads_page_cache:
        return
    source, target, stream = pages.reserve(SIZE), driver.allocate(SIZE), driver.stream()
    content = fill(source, SIZE, 3)
    if driver.register(source, SIZE):
        driver.copy(target, source, SIZE, stream)
        driver.wait_stream(stream)
        assert driver.read_back(target, SIZE) == content
        driver.unregister(source)
    driver.end_stream(stream)
    driver.free(target)
    pages.unmap(source, SIZE)


def every_thread_can_use_it_once_attached(driver: Driver) -> None:
    failures: list[BaseException] = []

    def use() -> None:
        try:
            driver.attach()
            copies_arrive_and_not_before_their_event(driver)
        except BaseException as exc:  # noqa: BLE001 - told to the test below
            failures.append(exc)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def a_callers_thread_uses_it_in_a_block_and_is_as_before_after_it(driver: Driver) -> None:
    failures: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(2):
                with driver.attached():
                    with driver.attached():
                        copies_arrive_and_not_before_their_event(driver)
                    address = driver.allocate(SIZE)
                    driver.free(address)
            if not isinstance(driver, HostMemory):
                with pytest.raises(DeviceError, match="201"):
                    driver.allocate(SIZE)
        except BaseException as exc:  # noqa: BLE001 - told to the test below
            failures.append(exc)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert not failures


SUITE: tuple[Callable[[Driver], None], ...] = (
    copies_arrive_and_not_before_their_event,
    rows_arrive_with_their_pitches,
    memory_is_aligned_and_distinct,
    what_is_allocated_is_no_longer_free,
    too_much_is_an_error_and_takes_nothing,
    registered_pages_are_read_in_place,
    every_thread_can_use_it_once_attached,
    a_callers_thread_uses_it_in_a_block_and_is_as_before_after_it,
)
