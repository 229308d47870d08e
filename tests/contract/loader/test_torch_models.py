"""open_model with torch: what safetensors' load_file returns, for every dtype that torch has; casts, slices, DLPack."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (it is no dependency of the tests; 0.2-2 GB)")
safetensors_torch = pytest.importorskip("safetensors.torch")

from loading import encode, entry  # noqa: E402 - after the skip

from prestage.loader import Unsupported, UnsupportedDtype, open_model, start  # noqa: E402
from prestage.loader.memory.dlpack import RawTensor  # noqa: E402

PLAIN = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
EIGHT_BIT = ["float8_e4m3fn", "float8_e5m2"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    tensors = {name: torch.randn(33, 17).mul(3).to(getattr(torch, name)) for name in [*PLAIN, *EIGHT_BIT]}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)}
    safetensors_torch.save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def bits(tensor: object) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[attr-defined] # a tensor


@pytest.mark.parametrize("device", ["xpu", "mps", "hpu"])
def test_a_device_that_only_torch_may_know_is_read_by_way_of_the_host_though_start_came_first(file: Path, device: str) -> None:
    start(file, device=device)
    with open_model(file, device=device) as model:
        assert len(model) == len([*PLAIN, *EIGHT_BIT]) + 2


@pytest.mark.parametrize("destination", ["auto", "mapped", "private"])
def test_every_dtype_is_what_the_safetensors_library_returns(file: Path, destination: str) -> None:
    wanted = safetensors_torch.load_file(file)
    with open_model(file, destination=destination) as model:
        found = dict(model.items())
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found[name]) == bits(tensor)
        if tensor.numel():
            assert found[name].untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_floats_are_cast_and_eight_bit_floats_are_not(file: Path) -> None:
    with open_model(file, dtype="bfloat16") as model:
        kinds = {name: str(model[name].dtype) for name in model.keys()}  # noqa: SIM118 - a list in order
    assert {kinds[name] for name in ("float64", "float32", "float16", "bfloat16", "scalar", "empty")} == {"torch.bfloat16"}
    assert (kinds["float8_e4m3fn"], kinds["int8"], kinds["bool"]) == ("torch.float8_e4m3fn", "torch.int8", "torch.bool")
    with open_model(file, dtype="bfloat61") as model, pytest.raises(Unsupported, match="bfloat61"):
        model["float32"]


def test_slices_are_what_torch_cuts_and_own_their_memory(file: Path) -> None:
    wanted = safetensors_torch.load_file(file)["bfloat16"]
    for index in (slice(3, 9), (slice(None), slice(2, 11)), (slice(1, 30), slice(16, 17))):
        with open_model(file, names=["bfloat16"], slices={"bfloat16": index}) as model:
            cut = model["bfloat16"]
        assert torch.equal(cut, wanted[index])
        assert cut.is_contiguous()


def test_tensors_are_independent_and_writable(file: Path) -> None:
    with open_model(file) as model:
        found = dict(model.items())
    found["float32"].fill_(7)
    assert bits(found["float64"]) == bits(safetensors_torch.load_file(file)["float64"])
    assert not torch.equal(safetensors_torch.load_file(file)["float32"], found["float32"])


def test_packed_numbers_come_as_pairs(tmp_path: Path) -> None:
    packed = encode({"w": entry("F4", [4, 6], 0, 12)}, bytes(range(12)))
    (tmp_path / "m.safetensors").write_bytes(packed)
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this torch knows no float4")
    with open_model(tmp_path / "m.safetensors") as model:
        assert (model["w"].shape, bits(model["w"])) == ((4, 3), bytes(range(12)))
    (tmp_path / "m.safetensors").write_bytes(encode({"w": entry("F4", [4, 3], 0, 6)}, bytes(6)))
    with pytest.raises(UnsupportedDtype, match="divisible by 2"):
        open_model(tmp_path / "m.safetensors")


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_a_tensor_without_a_framework_becomes_one_of_torch_by_dlpack(file: Path) -> None:
    wanted = safetensors_torch.load_file(file)
    with open_model(file, framework="dlpack") as model:
        raw = dict(model.items())
    for name in ("float32", "bfloat16", "int16", "bool", "float8_e4m3fn", "scalar"):
        assert isinstance(raw[name], RawTensor)
        taken = torch.from_dlpack(raw.pop(name))
        assert (taken.dtype, taken.shape, bits(taken)) == (wanted[name].dtype, wanted[name].shape, bits(wanted[name]))


def test_a_capsule_that_nobody_takes_keeps_nothing(file: Path) -> None:
    from prestage.loader.memory import dlpack

    with open_model(file, framework="dlpack") as model:
        tensor = model["float32"]
    before = len(dlpack._held)
    for version in (None, (1, 0)):
        capsule = tensor.__dlpack__(max_version=version)
        assert len(dlpack._held) == before + 1
        del capsule
        assert len(dlpack._held) == before
