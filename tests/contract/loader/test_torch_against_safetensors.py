"""load_file, load_model and safe_open for torch: equal to the safetensors library's, storage and all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from loading import bytes_tensors, make_view

torch = pytest.importorskip("torch", reason="torch is not installed (it is no dependency of the tests; 0.2-2 GB)")
library = pytest.importorskip("safetensors.torch")
safetensors = pytest.importorskip("safetensors")

from prestage.loader import CorruptFile, SafetensorError, safe_open  # noqa: E402 - needs torch
from prestage.loader.torch import load_file, load_model  # noqa: E402 - needs torch

DTYPES = [
    "bool", "uint8", "int8", "uint16", "int16", "float16", "bfloat16", "uint32", "int32", "float32", "uint64", "int64", "float64",
    "complex64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2",
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    tensors = {"scalar": torch.tensor(2.5), "empty": torch.zeros((0, 3))}
    for name in DTYPES:
        dtype = getattr(torch, name)
        raw = torch.randint(0, 2, (6, 8 * dtype.itemsize), dtype=torch.uint8, generator=generator)
        tensors[name] = raw.view(dtype)
    library.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_are_equal_in_bits_shape_dtype_and_storage(file: Path, backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = load_file(file, backend=backend)
    theirs = library.load_file(file)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        mine = ours[name]
        assert (mine.dtype, mine.shape, mine.device, mine.stride()) == (
            tensor.dtype,
            tensor.shape,
            tensor.device,
            tensor.stride(),
        )
        assert mine.storage_offset() == tensor.storage_offset() == 0
        assert mine.untyped_storage().nbytes() == tensor.untyped_storage().nbytes()
        assert torch.equal(bits(mine), bits(tensor))


def bits(tensor: Any) -> Any:
    return tensor.reshape(-1).view(torch.uint8)


def test_tensors_may_be_written_to_and_the_file_stays(file: Path) -> None:
    before = file.read_bytes()
    load_file(file)["float32"].zero_()
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "index", [0, -1, slice(1, 3), (slice(None), 0), (..., slice(None, None, 2)), slice(0, 100), None, [1, 2]]
)
def test_slices_are_equal(file: Path, index: object) -> None:
    theirs = safetensors.safe_open(file, "pt").get_slice("float32")[index]
    ours = safe_open(file, "pt").get_slice("float32")[index]
    assert torch.equal(bits(ours.contiguous()), bits(theirs.contiguous()))
    assert ours.shape == theirs.shape


def test_devices_are_refused_alike(file: Path) -> None:
    for device in ("meta", "cuda:x", "gpu", -1, torch.device("cpu")):
        with pytest.raises((safetensors.SafetensorError, ValueError)):
            safetensors.safe_open(file, "pt", device=device)
        with pytest.raises(SafetensorError, match="is invalid"):
            safe_open(file, "pt", device=device)


def test_a_corrupt_file_gives_no_tensor(tmp_path: Path) -> None:
    view = make_view(tmp_path, {"model.safetensors": bytes_tensors({"a": 50_000, "b": 50_000})})
    assert load_file(view.file(), verify="require")["b"].shape == (50_000,)
    view.damage(70_000)
    with pytest.raises(CorruptFile):
        load_file(view.file())
    with safe_open(view.file(), "pt") as opened:
        assert opened.get_tensor("a").shape == (50_000,)


def tied() -> Any:
    """A model whose head and embedding are one tensor."""
    linear = torch.nn.Linear
    model = torch.nn.ModuleDict({"embed": linear(4, 8, bias=False), "body": linear(4, 4), "head": linear(4, 8, bias=False)})
    model["head"].weight = model["embed"].weight
    return model


def test_a_model_with_tied_weights_loads_as_with_the_library(tmp_path: Path) -> None:
    saved = tied()
    library.save_model(saved, tmp_path / "tied.safetensors")
    mine, theirs = tied(), tied()
    assert (
        load_model(mine, tmp_path / "tied.safetensors")
        == library.load_model(theirs, tmp_path / "tied.safetensors")
        == (set(), [])
    )
    for name, tensor in saved.state_dict().items():
        assert torch.equal(mine.state_dict()[name], tensor)
        assert torch.equal(theirs.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "names",
    [["embed.weight"], ["head.weight", "body.weight", "body.bias"], ["embed.weight", "head.weight", "body.weight", "body.bias"],
     ["embed.weight", "body.weight", "body.bias", "extra"], ["body.weight", "body.bias"]],
)  # fmt: skip
def test_missing_and_unexpected_names_are_told_as_the_library_tells_them(tmp_path: Path, names: list[str]) -> None:
    state = {name: tensor.clone() for name, tensor in tied().state_dict().items()} | {"extra": torch.zeros(1)}
    library.save_file({name: state[name] for name in names}, tmp_path / "part.safetensors")
    theirs = library.load_model(tied(), tmp_path / "part.safetensors", strict=False)
    assert load_model(tied(), tmp_path / "part.safetensors", strict=False) == theirs
    if theirs == (set(), []):
        return
    with pytest.raises(RuntimeError) as expected:
        library.load_model(tied(), tmp_path / "part.safetensors")
    with pytest.raises(RuntimeError) as caught:
        load_model(tied(), tmp_path / "part.safetensors")
    assert str(caught.value) == str(expected.value)


def test_a_model_whose_names_share_no_complete_tensor_is_refused_as_by_the_library(tmp_path: Path) -> None:
    def halves() -> Any:
        model, whole = torch.nn.Module(), torch.zeros(10)
        model.register_buffer("a", whole[:6])
        model.register_buffer("b", whole[2:8])
        return model

    library.save_file({"a": torch.ones(6), "b": torch.ones(6)}, tmp_path / "halves.safetensors")
    with pytest.raises(RuntimeError):
        library.load_model(halves(), tmp_path / "halves.safetensors")
    with pytest.raises(RuntimeError, match="share memory"):
        load_model(halves(), tmp_path / "halves.safetensors")
