"""accelerate() changes who reads inside a block, and nothing else. With numpy: no framework is needed for the rules."""

from __future__ import annotations

import logging
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from loading import bytes_tensors, encode, entry, make_view

safetensors = pytest.importorskip("safetensors")
library = pytest.importorskip("safetensors.numpy")

import prestage.loader  # noqa: E402 - after what it stands in for
from prestage.loader import CorruptFile, Unsupported, VerifyUnavailable, accelerate  # noqa: E402 - as above

STOCK = safetensors.safe_open


@pytest.fixture
def file(tmp_path: Path) -> Path:
    library.save_file({"a": np.arange(12.0).reshape(3, 4), "b": np.ones(5)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def diffusers() -> Iterator[ModuleType]:
    """A module that imported the reader under a name of its own, as diffusers' do."""
    module = ModuleType("diffusers.loading")
    vars(module).update(reader=STOCK, other="safe_open")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def is_ours(handle: object) -> bool:
    return isinstance(handle, prestage.loader.safe_open)


def test_inside_the_block_files_are_read_by_this_loader_and_outside_by_the_library(file: Path) -> None:
    with accelerate(), safetensors.safe_open(file, "np") as handle:
        assert is_ours(handle)
        inside = handle.get_tensors()
        assert handle.get_slice("a")[1:, 2].tolist() == [6.0, 10.0]
        assert (handle.keys(), handle.offset_keys(), handle.metadata()) == (["a", "b"], ["a", "b"], None)
    assert safetensors.safe_open is STOCK
    with safetensors.safe_open(file, "np") as handle:
        assert not is_ours(handle)
        outside = {name: handle.get_tensor(name) for name in ("a", "b")}
    assert inside.keys() == outside.keys()
    assert all(np.array_equal(inside[name], outside[name]) for name in outside)


def test_modules_that_imported_the_reader_are_served_and_put_back(file: Path, diffusers: ModuleType) -> None:
    with accelerate():
        assert is_ours(diffusers.reader(file, "np"))
        assert diffusers.other == "safe_open"
    assert diffusers.reader is STOCK


def test_modules_of_others_are_left_alone() -> None:
    module = sys.modules[__name__]
    with accelerate():
        assert module.STOCK is STOCK
        assert safetensors.safe_open is not STOCK


def test_a_module_first_imported_inside_is_put_back_too(file: Path) -> None:
    late = ModuleType("somebody.late")
    with accelerate():
        vars(late)["safe_open"] = safetensors.safe_open
        sys.modules[late.__name__] = late
    del sys.modules[late.__name__]
    assert late.safe_open is STOCK


def test_a_reader_kept_beyond_the_block_is_the_librarys(file: Path) -> None:
    with accelerate():
        kept = safetensors.safe_open
    assert kept is not STOCK
    assert type(kept(file, "np")) is STOCK


def test_an_exception_ends_the_block_like_any_other_end(diffusers: ModuleType) -> None:
    with pytest.raises(KeyError), accelerate():
        raise KeyError
    assert safetensors.safe_open is STOCK
    assert diffusers.reader is STOCK


def test_blocks_nest_and_the_last_to_end_restores(file: Path) -> None:
    first, second = accelerate(), accelerate()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_ours(safetensors.safe_open(file, "np"))
    second.__exit__(None, None, None)
    assert safetensors.safe_open is STOCK


def test_blocks_of_many_threads_end_with_the_library_in_its_place(file: Path, diffusers: ModuleType) -> None:
    served: list[bool] = []
    together = threading.Barrier(8)

    def load() -> None:
        together.wait()
        for _ in range(20):
            with accelerate():
                served.append(is_ours(diffusers.reader(file, "np")))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served == [True] * 160
    assert safetensors.safe_open is STOCK
    assert diffusers.reader is STOCK


def test_what_this_loader_refuses_the_stock_reader_opens_with_one_log_line(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    # two equal keys: the library keeps the last
    header = b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    twice = file.with_name("twice.safetensors")
    twice.write_bytes(encode(header, b"\x01\x02"))
    with caplog.at_level(logging.INFO, "prestage.loader"), accelerate():
        for _ in range(2):
            handle = safetensors.safe_open(twice, "np")
            assert type(handle) is STOCK
            assert handle.get_tensor("a").tolist() == [1, 2]
        assert is_ours(safetensors.safe_open(file, "np"))
    with accelerate(verify="require"), pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(twice, "np")
    lines = [record for record in caplog.records if record.getMessage() == "stock reader"]
    assert [line.path for line in lines] == [str(twice)]  # type: ignore[attr-defined] # a field of ours
    assert "invalid JSON" in lines[0].reason  # type: ignore[attr-defined] # as above


@pytest.mark.parametrize("arguments", [("gone.safetensors", "np"), ("model.safetensors", "nonsense"), (3, "np")])
def test_what_both_refuse_is_refused_in_the_librarys_words(
    file: Path, arguments: tuple[object, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(Exception) as theirs:
        STOCK(*arguments)
    with accelerate(), pytest.raises(type(theirs.value)) as mine:
        safetensors.safe_open(*arguments)
    assert str(mine.value) == str(theirs.value)
    assert [record for record in caplog.records if record.getMessage() == "stock reader"] == []


def test_errors_are_caught_by_the_librarys_name_and_by_ours(file: Path) -> None:
    with accelerate(), safetensors.safe_open(file, "np") as handle:
        with pytest.raises(safetensors.SafetensorError, match="File does not contain tensor c") as caught:
            handle.get_tensor("c")
        assert isinstance(caught.value, prestage.loader.UnknownTensor)
        with pytest.raises(safetensors.SafetensorError, match="out of bounds"):
            handle.get_slice("a")[7]
    with pytest.raises(safetensors.SafetensorError, match="File is closed"):
        handle.keys()
    plain = pickle.loads(pickle.dumps(caught.value))
    assert type(plain) is prestage.loader.UnknownTensor
    assert str(caught.value) == plain.message == "File does not contain tensor c"
    assert caught.value.__notes__ == [plain.hint]


def test_a_corrupt_file_is_never_handed_to_the_stock_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    view = make_view(tmp_path, {"model.safetensors": bytes_tensors({"a": 5000, "b": 90_000})})
    with accelerate():
        assert safetensors.safe_open(view.file(), "np").get_tensor("b").shape == (90_000,)
    view.damage(70_000)
    with accelerate(), pytest.raises(safetensors.SafetensorError, match="differs from its sum") as caught:
        safetensors.safe_open(view.file(), "np").get_tensors()
    assert isinstance(caught.value, CorruptFile)
    assert caught.value.path == view.file()
    view.damage(9)  # the header
    with accelerate(), pytest.raises(CorruptFile):
        safetensors.safe_open(view.file(), "np")
    assert "stock reader" not in caplog.text


def test_of_open_blocks_the_strictest_verify_holds(file: Path, tmp_path: Path) -> None:
    with accelerate(verify="require"), accelerate(verify="off"), pytest.raises(VerifyUnavailable):
        safetensors.safe_open(file, "np")
    view = make_view(tmp_path / "artifact", {"model.safetensors": bytes_tensors({"a": 50_000})})
    view.damage(20_000)
    with accelerate(verify="off"):
        assert safetensors.safe_open(view.file(), "np").get_tensor("a").shape == (50_000,)
        with accelerate(), pytest.raises(CorruptFile):
            safetensors.safe_open(view.file(), "np").get_tensor("a")
    with pytest.raises(Unsupported, match="verify 'maybe'"), accelerate(verify="maybe"):
        pass
    assert safetensors.safe_open is STOCK


def test_an_unknown_dtype_is_the_librarys_refusal(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode({"a": entry("F6_E2M3", [4], 0, 3)}, bytes(3)))
    with pytest.raises(safetensors.SafetensorError):
        STOCK(path, "np").get_tensor("a")
    with accelerate(), pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(path, "np").get_tensor("a")
