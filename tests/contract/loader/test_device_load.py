"""open_model onto a device, on a driver that copies late: right bytes by every way, nothing kept."""

from __future__ import annotations

import gc
import json
import math
import os
from pathlib import Path

import pytest
from fakecuda import FakeCuda
from loading import View, encode, entry
from loading.onto_device import MIB, SIZES, is_right, load_and_check, load_through_few_windows

from prestage.bench.cold import make_cold
from prestage.loader import DeviceError, device_load, open_model, running, start
from prestage.loader.memory import cuda
from prestage.loader.memory import device as device_memory
from prestage.loader.memory.dlpack import RawTensor
from prestage.loader.raw_tensors import RawTensors


def test_pages_go_to_the_device_through_windows_that_move(view: View, fake: FakeCuda) -> None:
    load_through_few_windows(view, fake)


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


@pytest.mark.parametrize(
    ("refused", "pays_from", "ways"),
    [
        (0, 0, {"page cache to device"}),
        (1, 0, {"copied from the page cache"}),
        (0, math.inf, {"copied from the page cache"}),
    ],
    ids=["taken", "refused", "found slow at the first block"],
)
def test_resident_files_go_from_the_page_cache_where_the_driver_takes_them_and_it_pays(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch, refused: int, pays_from: float, ways: set[str]
) -> None:
    monkeypatch.setattr(device_load, "_PROBE_MIN_BYTES", 0)
    monkeypatch.setattr(device_load, "_PAYS_FROM", pays_from)
    monkeypatch.setattr(running, "DEVICE_THREADS", 1)  # while one finds out, others copy
    fake.set("refuse_register", refused)
    Path(view.file()).read_bytes()
    with open_model(view.folder, framework="dlpack", device="cuda") as model:
        assert len(list(model.items())) == len(SIZES)
        taken = model.report()["ways"]
    assert isinstance(taken, dict)
    assert set(taken) == ways
    load_and_check(view, fake)


def test_neighbours_share_an_allocation_which_goes_with_the_last_of_them(
    view: View, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "PIECE_BYTES", 32 * MIB)
    with open_model(view.folder, framework="dlpack", device="cuda") as model:
        tensors = dict(model.items())
    assert all(tensors[name].address % 512 == 0 for name in "abde")
    left = []
    for name in "abcde":
        gc.collect()
        left.append(fake.held().get("device", 0))
        del tensors[name]
    assert left == [3, 3, 2, 2, 1]
    gc.collect()
    fake.assert_clean()


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
