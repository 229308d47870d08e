"""Host memory and the fake CUDA driver pass the suite that `tests/gpu` runs on a real one; and the fake is as late as it says."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from drivers import SUITE, fill
from fakecuda import FakeCuda

from prestage.loader.errors import DeviceError, Unsupported
from prestage.loader.memory import cuda
from prestage.loader.memory.host import HostMemory
from prestage.loader.memory.ports import Driver

SIZE = 1 << 20


@pytest.mark.parametrize("check", SUITE)
def test_host_memory_is_a_driver(check: Callable[[Driver], None]) -> None:
    driver = HostMemory()
    check(driver)
    assert driver.free_bytes() == 1 << 40


@pytest.mark.parametrize("check", SUITE)
def test_the_cuda_client_on_the_fake_library_is_a_driver(check: Callable[[Driver], None], fake: FakeCuda) -> None:
    check(fake.driver())
    fake.assert_clean()


def test_a_copy_reads_its_source_only_when_it_is_waited_for(fake: FakeCuda) -> None:
    driver = fake.driver()
    target, source, stream = driver.allocate(SIZE), driver.pin(SIZE), driver.stream()
    fill(source, SIZE, 1)
    driver.copy(target, source, SIZE, stream)
    assert set(driver.read_back(target, SIZE)) == {0xAA}
    late = fill(source, SIZE, 2)
    driver.wait_stream(stream)
    assert driver.read_back(target, SIZE) == late


def test_a_copy_from_memory_that_was_given_back_is_a_violation(fake: FakeCuda) -> None:
    driver = fake.driver()
    target, source, stream = driver.allocate(SIZE), driver.pin(SIZE), driver.stream()
    driver.copy(target, source, SIZE, stream)
    driver.unpin(source)
    driver.wait_stream(stream)
    assert fake.get("violations") == 1


def test_giving_back_twice_is_refused_and_counted(fake: FakeCuda) -> None:
    driver = fake.driver()
    address = driver.allocate(SIZE)
    driver.free(address)
    with pytest.raises(DeviceError, match="CUDA_ERROR_INVALID_VALUE"):
        driver.free(address)
    assert fake.get("violations") == 1


def test_a_thread_that_did_not_attach_is_refused(fake: FakeCuda) -> None:
    driver = fake.driver()
    caught: list[DeviceError] = []

    def use() -> None:
        try:
            driver.allocate(SIZE)
        except DeviceError as exc:
            caught.append(exc)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert [error.code for error in caught] == [201]


def test_the_primary_context_is_retained_once_a_process(fake: FakeCuda) -> None:
    assert fake.driver() is fake.driver()
    assert fake.get("retained") == 1


def test_a_machine_without_the_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    with pytest.raises(Unsupported, match="no CUDA driver"):
        cuda.driver()
