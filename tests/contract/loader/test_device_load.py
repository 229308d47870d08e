"""open_model onto a device, on a driver that copies late: right bytes, nothing kept, each classic bug caught."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from fakecuda import FakeCuda
from loading import View, bytes_tensors, data_start, encode, entry, make_view

from prestage.bench.cold import make_cold
from prestage.loader import Closed, CorruptFile, DeviceError, OverBudget, device_load, open_model, start
from prestage.loader.device_load import DeviceLoad
from prestage.loader.memory import cuda
from prestage.loader.memory import device as device_memory
from prestage.loader.memory.cuda import CudaDriver
from prestage.loader.memory.dlpack import RawTensor
from prestage.loader.memory.ring import Ring, Slot
from prestage.loader.raw_tensors import RawTensors

MIB = 1 << 20
SIZES = {"a": 9 * MIB + 5, "b": 100, "c": 0, "d": 30 * MIB, "e": 3 * MIB}
CONTENT = bytes_tensors(SIZES)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")


@pytest.fixture
def view(tmp_path: Path) -> View:
    return make_view(tmp_path, {"model.safetensors": CONTENT}, chunk_bytes=MIB)


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


def is_right(driver: CudaDriver, tensor: RawTensor, name: str) -> bool:
    """Not an `==` in an assert: of megabytes that differ pytest would make a diff, which takes minutes."""
    return read(driver, tensor, name) == expected(name)


def read(driver: CudaDriver, tensor: RawTensor, name: str) -> bytes:
    return driver.read_back(tensor.address, SIZES[name]) if SIZES[name] else b""


@pytest.mark.parametrize("state", ["cold", "hot"])
@pytest.mark.parametrize("verify", ["require", "off"])
@pytest.mark.parametrize("pinned_bytes", [8 * MIB, 128 * MIB])
def test_every_byte_arrives_through_a_ring_of_any_size(
    view: View, fake: FakeCuda, state: str, verify: str, pinned_bytes: int
) -> None:
    file = Path(view.file())
    make_cold([file])
    if state == "hot":
        file.read_bytes()
    load_and_check(view, fake, verify=verify, pinned_bytes=pinned_bytes)


@pytest.mark.parametrize("refused", [0, 1])
def test_resident_files_go_from_the_page_cache_where_the_driver_takes_them(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    monkeypatch.setattr(device_load, "_PROBE_MIN_BYTES", 0)
    monkeypatch.setattr(DeviceLoad, "_pays", lambda *_: True)
    fake.set("refuse_register", refused)
    Path(view.file()).read_bytes()
    with open_model(view.folder, framework="dlpack", device="cuda") as model:
        assert len(list(model.items())) == len(SIZES)
        ways = model.report()["ways"]
    assert isinstance(ways, dict)
    assert set(ways) == ({"copied from the page cache"} if refused else {"page cache to device"})
    load_and_check(view, fake)


def test_the_probe_takes_the_faster_way_and_right_bytes_either_way(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_load, "_PROBE_MIN_BYTES", 0)
    Path(view.file()).read_bytes()
    load_and_check(view, fake)


def test_slices_arrive_back_to_back(tmp_path: Path, fake: FakeCuda) -> None:
    rows, columns = 3000, 8192
    header = {"w": {"dtype": "U8", "shape": [rows, columns], "data_offsets": [0, rows * columns]}}
    text = json.dumps(header).encode()
    data = os.urandom(rows * columns)
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    for index in ((slice(100, 2900), slice(None)), (slice(None), slice(2048, 4096)), (slice(7, 2999), slice(8000, 8192))):
        with open_model(tmp_path / "m.safetensors", framework="dlpack", device="cuda", slices={"w": index}) as model:
            tensor = model["w"]
            low, high = index[1].indices(columns)[:2]
            wanted = b"".join(data[row * columns + low : row * columns + high] for row in range(*index[0].indices(rows)))
            assert fake.driver().read_back(tensor.address, len(wanted)) == wanted
            del tensor
    fake.assert_clean()


def test_a_started_load_is_taken_over(view: View, fake: FakeCuda) -> None:
    start(view.folder, device="cuda")
    load_and_check(view, fake)


def test_a_cast_that_failed_once_gives_the_files_bytes_the_next_time(
    tmp_path: Path, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, failures = os.urandom(4 * MIB), [DeviceError("no memory for the cast", code=2)]
    (tmp_path / "m.safetensors").write_bytes(encode({"w": entry("F32", [MIB], 0, len(data))}, data))

    def cast(_: RawTensors, tensor: RawTensor, dtype: object) -> RawTensor:
        if failures:
            raise failures.pop()
        return tensor

    monkeypatch.setattr(RawTensors, "cast", cast)
    with open_model(tmp_path / "m.safetensors", framework="dlpack", device="cuda", dtype="F64") as model:
        with pytest.raises(DeviceError, match="for the cast"):
            model["w"]
        assert fake.driver().read_back(model["w"].address, len(data)) == data
    gc.collect()
    fake.assert_clean()


@pytest.mark.parametrize("own", [None, 0])
def test_a_load_leaves_its_callers_current_device_as_it_is(view: View, fake: FakeCuda, own: int | None) -> None:
    if own is not None:
        cuda.driver(own).attach()
    before = fake.current()
    assert (before is None) == (own is None)
    model = open_model(view.folder, framework="dlpack", device="cuda:1", pinned_bytes=8 * MIB)
    assert fake.current() == before
    items = model.items()
    held = [next(items)[1], model["d"]]
    assert fake.current() == before
    model.close()
    assert fake.current() == before
    with cuda.driver(1).attached():
        assert is_right(cuda.driver(1), held[1], "d")
    held.clear()
    del items, model
    gc.collect()
    assert fake.current() == before
    assert (fake.get("calls on 0"), fake.get("calls on 1") > 0) == (0, True)
    fake.assert_clean()


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


@pytest.mark.parametrize("copy", [1, 2, 5])
def test_a_lost_context_ends_the_load_with_its_error_and_without_a_hang(view: View, fake: FakeCuda, copy: int) -> None:
    fake.driver()
    fake.set("fail_copy", copy)
    with pytest.raises(DeviceError, match="719") as caught:
        load_and_check(view, fake)
    assert caught.value.code == 719


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


def slot_reused_before_its_copy_ended(patch: pytest.MonkeyPatch) -> None:
    def acquire(ring: Ring) -> Slot:
        return ring._free.get()

    patch.setattr(Ring, "acquire", acquire)


def missing_synchronise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeviceLoad, "buffer", lambda load, name: load._buffers[name])


def leak_at_an_exception(patch: pytest.MonkeyPatch) -> None:
    """Somebody on the way, a traceback or a cache, still refers to the buffers."""
    kept: list[object] = []
    allocate = device_memory.DriverMemory.allocate

    def keep(memory: device_memory.DriverMemory, sizes: Iterable[tuple[str, int]]) -> dict[str, device_memory.Buffer]:
        buffers = allocate(memory, sizes)
        kept.extend(buffers.values())
        return buffers

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
