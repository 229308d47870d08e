"""What open_model is asked for: slices, casts, tied names, and what its tensors are then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from loading import encode, entry

from prestage.loader import BadIndex, UnknownTensor, Unsupported, VerifyUnavailable, open_model


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")


MATRIX = np.arange(96 * 64, dtype=np.float32).reshape(96, 64)


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    header = {
        "w": entry("F32", [96, 64], 0, MATRIX.nbytes),
        "e": entry("F32", [4, 24, 64], MATRIX.nbytes, 2 * MATRIX.nbytes),
        "n": entry("I32", [3], 2 * MATRIX.nbytes, 2 * MATRIX.nbytes + 12),
        "z": entry("F32", [0, 5], 2 * MATRIX.nbytes + 12, 2 * MATRIX.nbytes + 12),
        "s": entry("F32", [], 2 * MATRIX.nbytes + 12, 2 * MATRIX.nbytes + 16),
    }
    data = MATRIX.tobytes() * 2 + np.array([1, 2, 3], np.int32).tobytes() + np.float32(7).tobytes()
    file = tmp_path / "matrix.safetensors"
    text = json.dumps({**header, "__metadata__": {"tied": "w", "format": "pt"}}).encode()
    file.write_bytes(encode(text + b" " * (-len(text) % 8), data))
    return file


@pytest.mark.parametrize(
    "index",
    [
        np.s_[10:20],
        np.s_[-8:],
        np.s_[:, 16:32],
        np.s_[5:9, :-60],
        np.s_[5:5],
        np.s_[:, 3:3],
        np.s_[:, :],
        (slice(0, 96), slice(63, 64)),
    ],
)
@pytest.mark.parametrize("destination", ["auto", "private"])
def test_slices_are_what_numpy_cuts(matrix: Path, index: slice | tuple[slice, ...], destination: str) -> None:
    with open_model(matrix, framework="np", slices={"w": index}, destination=destination) as model:
        cut = model["w"]
        assert np.array_equal(cut, MATRIX[index])
        assert cut.flags.c_contiguous
        assert model.get_slice("w").get_shape() == list(MATRIX[index].shape)
        assert np.array_equal(model["e"], MATRIX.reshape(4, 24, 64))


@pytest.mark.parametrize("index", [np.s_[1:3], np.s_[:, 3:9], np.s_[1:2, 3:9], np.s_[:, :, 60:], np.s_[2:4, :, 8:16]])
def test_slices_of_experts_cut_rows_and_one_other_dimension(matrix: Path, index: tuple[slice, ...]) -> None:
    with open_model(matrix, framework="np", slices={"e": index}, names=["e"]) as model:
        assert np.array_equal(model["e"], MATRIX.reshape(4, 24, 64)[index])


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (np.s_[::2], Unsupported),
        (3, Unsupported),
        (np.s_[:200], BadIndex),
        (np.s_[:, :, :], BadIndex),
        (np.s_[:, 3], Unsupported),
    ],
)
def test_slices_that_do_not_fit_are_refused_before_anything_is_read(matrix: Path, index: slice, error: type[Exception]) -> None:
    with pytest.raises(error, match="'w'"):
        open_model(matrix, framework="np", slices={"w": index})


def test_two_cut_dimensions_beside_the_rows_are_refused(matrix: Path) -> None:
    with pytest.raises(Unsupported, match=r"cut dimensions \[1, 2\]"):
        open_model(matrix, framework="np", slices={"e": np.s_[:, 1:3, 1:3]})


def test_floats_are_cast_and_integers_are_not(matrix: Path) -> None:
    with open_model(matrix, framework="np", dtype="float16") as model:
        assert {name: str(model[name].dtype) for name in model} == {
            "w": "float16", "e": "float16", "n": "int32", "z": "float16", "s": "float16",
        }  # fmt: skip
        assert np.array_equal(model["w"], MATRIX.astype(np.float16))


def test_empty_and_scalar_tensors_keep_their_shape(matrix: Path) -> None:
    with open_model(matrix, framework="np") as model:
        assert model["z"].shape == (0, 5)
        assert (model["s"].shape, float(model["s"])) == ((), 7.0)


def test_a_tied_name_is_the_very_tensor_that_it_is_tied_to(matrix: Path) -> None:
    with open_model(matrix, framework="np") as model:
        assert model.aliases == {"tied": "w"}
        assert model["tied"] is model["w"]
        assert ("tied" in model, "tied" in list(model)) == (True, False)
        assert model.metadata == {"tied": "w", "format": "pt"}
    with open_model(matrix, framework="np", names=["tied"], slices={"tied": np.s_[:2]}) as model:
        assert np.array_equal(model["tied"], MATRIX[:2])


def test_slices_of_a_model_are_views_of_its_tensors(matrix: Path) -> None:
    with open_model(matrix, framework="np") as model:
        part = model.get_slice("w")
        assert (part.get_shape(), part.get_dtype()) == ([96, 64], "F32")
        assert np.array_equal(part[3:5, ::2], MATRIX[3:5, ::2])
        with pytest.raises(UnknownTensor):
            model.get_slice("absent")


def test_require_refuses_a_checkpoint_without_sums(matrix: Path) -> None:
    with pytest.raises(VerifyUnavailable, match="no sums"):
        open_model(matrix, framework="np", verify="require")
