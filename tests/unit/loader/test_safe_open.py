"""safe_open and load_file for numpy: results, verification, and what a caller is told."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from loading import ARTIFACT, View, bytes_tensors, data_start, encode, entry, make_view

from prestage.loader import (
    Closed,
    CorruptFile,
    InvalidFile,
    UnknownTensor,
    Unsupported,
    UnsupportedDtype,
    VerifyUnavailable,
    last_report,
    safe_open,
)
from prestage.loader.numpy import load_file

SIZES = {"a": 10_000, "b": 20_000, "c": 5_000}
CONTENT = bytes_tensors(SIZES)


@pytest.fixture
def view(tmp_path: Path) -> View:
    return make_view(tmp_path, {"model.safetensors": CONTENT})


def expected(name: str) -> bytes:
    start = data_start(CONTENT) + sum(size for other, size in SIZES.items() if other < name)
    return CONTENT[start : start + SIZES[name]]


def offset_of(name: str, byte: int) -> int:
    return data_start(CONTENT) + sum(size for other, size in SIZES.items() if other < name) + byte


def test_load_file_returns_every_array_and_says_verified(view: View) -> None:
    arrays = load_file(view.file(), verify="require")
    assert {name: array.tobytes() for name, array in arrays.items()} == {name: expected(name) for name in SIZES}
    report = last_report()
    assert report is not None
    assert (report["verify"], report["verified_bytes"], report["bytes"]) == ("verified", len(CONTENT), len(CONTENT))
    assert (report["artifact"], report["path"]) == (ARTIFACT, view.file())


def test_arrays_outlive_the_file_and_its_handle(view: View) -> None:
    with safe_open(view.file(), "np") as file:
        array, part = file.get_tensor("a"), file.get_slice("b")
    Path(view.file()).unlink()
    assert array.tobytes() == expected("a")
    assert part[5:9].tobytes() == expected("b")[5:9]


def test_writing_to_an_array_changes_neither_the_file_nor_another_load(view: View) -> None:
    first, second = load_file(view.file()), load_file(view.file())
    first["a"][:] = 0
    assert Path(view.file()).read_bytes() == CONTENT
    assert second["a"].tobytes() == expected("a")
    assert load_file(view.file(), verify="require")["a"].tobytes() == expected("a")


def test_a_chunk_is_not_judged_again_after_its_array_was_written_to(view: View) -> None:
    with safe_open(view.file(), "np", verify="require") as file:
        file.get_tensor("a")[:] = 0
        assert file.get_tensor("b").tobytes() == expected("b")
        assert not file.get_tensor("a").any()


def test_private_arrays_do_not_see_the_file_change(view: View) -> None:
    arrays = load_file(view.file(), backend="pread")
    view.damage(offset_of("a", 7))
    assert arrays["a"].tobytes() == expected("a")


@pytest.mark.parametrize("mode", ["auto", "require"])
def test_a_wrong_byte_is_named_and_nothing_is_returned(view: View, mode: str) -> None:
    where = offset_of("b", 9_000)
    view.damage(where)
    with pytest.raises(CorruptFile) as caught:
        load_file(view.file(), verify=mode)
    error = caught.value
    assert error.start <= where < error.stop
    assert (error.start % 4096, error.path, error.artifact) == (0, view.file(), ARTIFACT)
    for said in (view.file(), f"{error.start}-{error.stop}", ARTIFACT, "stage"):
        assert said in str(error)


def test_the_first_wrong_chunk_is_the_one_that_is_named(tmp_path: Path) -> None:
    content = bytes_tensors({"a": 40 << 20})
    view = make_view(tmp_path, {"model.safetensors": content}, chunk_bytes=4 << 20)
    for chunk in (9, 2, 5):
        view.damage((chunk << 22) + 17)
    with pytest.raises(CorruptFile) as caught:
        load_file(view.file())
    assert (caught.value.start, caught.value.stop) == (2 << 22, 3 << 22)


def test_off_loads_wrong_bytes_without_a_word(view: View) -> None:
    view.damage(offset_of("b", 9_000))
    assert load_file(view.file(), verify="off")["b"].tobytes() != expected("b")
    report = last_report()
    assert report is not None
    assert (report["verify"], report["verified_bytes"], report["artifact"]) == ("off", 0, None)


def test_a_damaged_header_is_called_corrupt_rather_than_invalid(view: View) -> None:
    for offset in (0, 7, 12):
        view.damage(offset)
        with pytest.raises(CorruptFile):
            safe_open(view.file(), "np")
        view.damage(offset)
    assert load_file(view.file()).keys() == SIZES.keys()


@pytest.mark.parametrize("length", [0, 5, len(CONTENT) - 1])
def test_a_truncated_file_is_corrupt(view: View, length: int) -> None:
    os.truncate(view.file(), length)
    with pytest.raises(CorruptFile, match=f"has {length} bytes instead of {len(CONTENT)}") as caught:
        load_file(view.file())
    assert (caught.value.start, caught.value.stop) == (length, len(CONTENT))


def test_a_tensor_costs_the_chunks_that_carry_it_and_each_once(view: View) -> None:
    with safe_open(view.file(), "np", verify="require") as file:
        assert checked() == 4096
        file.get_tensor("c")
        start, stop = offset_of("c", 0), offset_of("c", SIZES["c"])
        assert stop == len(CONTENT)
        assert checked() == 4096 + len(CONTENT) - start // 4096 * 4096
        file.get_tensor("c")
        assert checked() == 4096 + len(CONTENT) - start // 4096 * 4096


def test_a_slice_costs_the_chunks_of_its_rows(view: View) -> None:
    with safe_open(view.file(), "np", verify="require") as file:
        part = file.get_slice("b")
        before = checked()
        part[100:101]
        assert checked() - before in (0, 4096)


def test_damage_outside_the_asked_tensor_does_not_stop_it(view: View) -> None:
    view.damage(offset_of("b", 9_000))
    with safe_open(view.file(), "np", verify="require") as file:
        assert file.get_tensor("a").tobytes() == expected("a")
        assert file.get_slice("b")[:100].tobytes() == expected("b")[:100]
        for _ in range(2):
            with pytest.raises(CorruptFile):
                file.get_tensor("b")
        with pytest.raises(CorruptFile):
            file.get_slice("b")[8_990:9_010]


def checked() -> int:
    report = last_report()
    assert report is not None
    count = report["verified_bytes"]
    assert isinstance(count, int)
    return count


def test_a_file_without_sums_loads_and_says_unverified_once_per_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(CONTENT)
    with caplog.at_level(logging.INFO, logger="prestage.loader"):
        for name in ("one", "two", "one"):
            assert load_file(tmp_path / f"{name}.safetensors")["a"].tobytes() == expected("a")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.INFO, "unverified")]
    report = last_report()
    assert report is not None
    assert report["verify"] == "unverified"


def test_require_refuses_a_file_without_sums(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(CONTENT)
    with pytest.raises(VerifyUnavailable, match="no sums"):
        load_file(tmp_path / "model.safetensors", verify="require")


def test_damaged_sums_stop_auto_too(view: View) -> None:
    view.sums.write_text("{")
    with pytest.raises(VerifyUnavailable):
        load_file(view.file())
    assert load_file(view.file(), verify="off").keys() == SIZES.keys()


def test_an_empty_view_file_is_too_small_to_be_safetensors(tmp_path: Path) -> None:
    view = make_view(tmp_path, {"model.safetensors": b""})
    with pytest.raises(InvalidFile, match="header too small"):
        safe_open(view.file(), "np")


def test_many_threads_may_use_one_handle(view: View) -> None:
    results: list[bytes] = []
    with safe_open(view.file(), "np", verify="require") as file:
        threads = [threading.Thread(target=lambda: results.append(file.get_tensor("b").tobytes())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [expected("b")] * 8


def test_a_thread_has_its_own_report(view: View) -> None:
    load_file(view.file())
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(last_report()))
    thread.start()
    thread.join()
    assert seen == [None]


def test_misaligned_tensors_become_aligned_arrays(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    text = b'{"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}'
    values = np.array([1.5, -2.5])
    file.write_bytes(encode(text + b" " * ((3 - len(text)) % 8), values.tobytes()))
    array = load_file(file)["a"]
    assert array.flags.aligned
    assert array.flags.writeable
    assert array.tolist() == [1.5, -2.5]


def test_a_dtype_that_numpy_lacks_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(encode({"a": entry("F4", [2], 0, 1)}, b"x"))
    with pytest.raises(UnsupportedDtype, match="F4 of tensor 'a'") as caught:
        load_file(file)
    assert isinstance(caught.value, TypeError)


def test_wrong_arguments_are_named(view: View, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="verify 'always' is invalid"):
        safe_open(view.file(), "np", verify="always")
    with pytest.raises(Unsupported, match="framework tf is invalid"):
        safe_open(view.file(), "tf")
    with pytest.raises(Unsupported, match="Device cuda:0 is not supported for framework numpy"):
        safe_open(view.file(), "np", "cuda:0")
    with pytest.raises(Unsupported, match='backend "direct" is invalid'):
        safe_open(view.file(), "np", backend="direct")
    with pytest.raises(FileNotFoundError):
        safe_open(tmp_path / "absent", "np")
    with pytest.raises(IsADirectoryError):
        safe_open(tmp_path, "np")
    with pytest.raises(OSError, match="not a regular file"):
        safe_open("/dev/null", "np")
    with pytest.raises(UnknownTensor, match="does not contain tensor z"):
        safe_open(view.file(), "np").get_tensor("z")


def test_a_closed_handle_says_so(view: View) -> None:
    with safe_open(view.file(), "np") as file:
        pass
    with pytest.raises(Closed, match="File is closed"):
        file.keys()


def test_errors_survive_the_way_to_another_process(view: View) -> None:
    view.damage(offset_of("b", 9_000))
    with pytest.raises(CorruptFile) as caught:
        load_file(view.file())
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, CorruptFile)
    assert (str(again), again.start, again.stop) == (str(caught.value), caught.value.start, caught.value.stop)


def test_a_file_truncated_under_the_mapping_is_an_error_and_no_signal(tmp_path: Path) -> None:
    content = bytes_tensors({"a": 3 << 20, "b": 1 << 20})
    view = make_view(tmp_path, {"model.safetensors": content}, chunk_bytes=1 << 20)
    with safe_open(view.file(), "np", verify="require") as file:
        os.truncate(view.file(), 1 << 20)
        with pytest.raises(OSError, match="cannot be read"):
            file.get_tensor("b")
