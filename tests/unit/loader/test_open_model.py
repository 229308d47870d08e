"""open_model: one plan over all shards, results, ownership, budgets, and what a caller is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from loading import View, bytes_tensors, data_start, make_view

from prestage.bench.cold import make_cold, resident_bytes
from prestage.loader import (
    Closed,
    CorruptFile,
    InvalidCheckpoint,
    OverBudget,
    UnknownTensor,
    Unsupported,
    last_report,
    open_model,
)
from prestage.loader.memory.region import Piece
from prestage.loader.numpy_arrays import Array, NumpyArrays
from prestage.loader.plan import Part

MIB = 1 << 20
SHARDS = {
    "model-00001-of-00002.safetensors": {"b": 3 * MIB + 5, "a": 9 * MIB},
    "model-00002-of-00002.safetensors": {"c": 64, "d": 17 * MIB},
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESTAGE_LOADER_QUIET", "1")


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {file: bytes_tensors(sizes, seed=number) for number, (file, sizes) in enumerate(SHARDS.items())}


@pytest.fixture
def view(tmp_path: Path, contents: dict[str, bytes]) -> View:
    made = make_view(tmp_path, contents, chunk_bytes=MIB)
    weight_map = {name: file for file, sizes in SHARDS.items() for name in sizes}
    (made.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return made


def expected(contents: dict[str, bytes], name: str) -> bytes:
    for file, sizes in SHARDS.items():
        at = data_start(contents[file])
        for other, size in sizes.items():
            if other == name:
                return contents[file][at : at + size]
            at += size
    raise KeyError(name)


def files(view: View) -> list[Path]:
    return [view.folder / name for name in SHARDS]


@pytest.mark.parametrize("destination", ["auto", "mapped", "private"])
@pytest.mark.parametrize("state", ["cold", "hot", "half"])
@pytest.mark.parametrize("verify", ["require", "off"])
@pytest.mark.parametrize("readers", [1, 4])
def test_every_way_gives_the_bytes_of_the_files(
    view: View, contents: dict[str, bytes], destination: str, state: str, verify: str, readers: int
) -> None:
    if state == "hot":
        for file in files(view):
            file.read_bytes()
    else:
        make_cold(files(view))
    if state == "half":
        with open(files(view)[1], "rb") as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            source.read(8 * MIB)
    with open_model(view.folder, framework="np", destination=destination, verify=verify, readers=readers) as model:
        found = dict(model.items())
    assert list(found) == ["b", "a", "c", "d"]
    for name, array in found.items():
        assert array.tobytes() == expected(contents, name)
        assert array.flags.writeable
        array[:] = 0
    assert {file.name: file.read_bytes() for file in files(view)} == contents


def test_what_is_not_resident_is_read_past_the_page_cache_and_what_is_resident_is_mapped(view: View) -> None:
    make_cold(files(view))
    with open_model(view.folder, framework="np", verify="off") as model:
        arrays = dict(model.items())
        ways = model.report()["ways"]
    assert isinstance(ways, dict)
    assert set(ways) == {"O_DIRECT"}
    # headers alone were read through it
    assert sum(map(resident_bytes, files(view))) <= 2 * 256 * 1024
    del arrays
    for file in files(view):
        file.read_bytes()
    with open_model(view.folder, framework="np", verify="off") as model:
        dict(model.items())
        assert set(model.report()["ways"]) == {"mapped"}  # type: ignore[call-overload] # a dict, as above


def test_with_several_readers_the_page_cache_holds_everything_afterwards(view: View) -> None:
    make_cold(files(view))
    with open_model(view.folder, framework="np", readers=2) as model:
        for _ in model.items():
            pass
    assert all(resident_bytes(file) >= file.stat().st_size for file in files(view))


def test_a_tensor_is_the_same_until_close_and_stays_valid_after_it(view: View, contents: dict[str, bytes]) -> None:
    with open_model(view.folder, framework="np") as model:
        first = model["a"]
        assert model["a"] is first
        assert (model.keys(), model.offset_keys(), len(model), "a" in model, "z" in model) == (
            ["a", "b", "c", "d"],
            ["b", "a", "c", "d"],
            4,
            True,
            False,
        )
    assert first.tobytes() == expected(contents, "a")
    for use in (lambda: model["a"], lambda: next(model.items()), lambda: model.report()):
        with pytest.raises(Closed, match="the model is closed"):
            use()
    model.close()


def test_what_items_handed_over_is_gone_when_it_is_let_go_and_found_again_while_it_lives(view: View) -> None:
    with open_model(view.folder, framework="np", destination="private") as model:
        handed = dict(model.items())
        assert model["a"] is handed["a"]
        del handed["d"]
        with pytest.raises(Closed, match="'d' was handed over and let go"):
            model["d"]


@pytest.mark.parametrize("destination", ["auto", "mapped", "private"])
def test_a_cast_that_failed_once_gives_the_files_bytes_the_next_time(
    view: View, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, destination: str
) -> None:
    real, failures = NumpyArrays.of_part, [MemoryError("no memory for the copy"), KeyboardInterrupt()]

    def of_part(arrays: NumpyArrays, piece: Piece | None, part: Part) -> Array:
        made = real(arrays, piece, part)
        if failures:
            raise failures.pop()
        return made

    make_cold(files(view))
    monkeypatch.setattr(NumpyArrays, "of_part", of_part)
    with open_model(view.folder, framework="np", destination=destination) as model:
        for failure in (KeyboardInterrupt, MemoryError):
            with pytest.raises(failure):
                model["d"]
        assert model["d"].tobytes() == expected(contents, "d")


def test_memory_of_a_tensor_goes_with_it_and_not_with_the_last_of_its_file(view: View) -> None:
    model = open_model(view.folder, framework="np", destination="private", verify="off")
    tensors = dict(model.items())
    model.close()
    before = resident_memory()
    del tensors["d"]
    assert before - resident_memory() > 15 * MIB
    assert tensors["a"].any()


def resident_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_private_load_reads_on_only_as_far_as_its_budget(view: View, contents: dict[str, bytes]) -> None:
    make_cold(files(view))
    budget = 18 * MIB
    with open_model(view.folder, framework="np", destination="private", host_bytes=budget) as model:
        for name, array in model.items():
            assert array.tobytes() == expected(contents, name)
            del array
        peak = model.report()["host_peak_bytes"]
    assert isinstance(peak, int)
    assert 8 * MIB <= peak <= budget


def test_holding_more_than_the_budget_is_an_error_and_no_hang(view: View) -> None:
    with (
        open_model(view.folder, framework="np", destination="private", host_bytes=18 * MIB) as model,
        pytest.raises(OverBudget, match="fill the budget"),
    ):
        list(model.items())


def test_after_what_did_not_fit_the_budget_what_fits_it_is_given(tmp_path: Path) -> None:
    content = bytes_tensors({"a": 7 * MIB, "b": 17 * MIB, "small": MIB})
    (tmp_path / "model.safetensors").write_bytes(content)
    with open_model(tmp_path, framework="np", destination="private", host_bytes=18 * MIB) as model:
        held = model["a"]
        with pytest.raises(OverBudget):
            model["b"]
        assert model["small"].tobytes() == content[-MIB:]
        assert held.tobytes() == content[data_start(content) :][: 7 * MIB]


def test_what_does_not_fit_the_budget_is_mapped_instead(view: View, contents: dict[str, bytes]) -> None:
    make_cold(files(view))
    with open_model(view.folder, framework="np", host_bytes=9 * MIB) as model:
        found = dict(model.items())
        ways = model.report()["ways"]
    assert isinstance(ways, dict)
    assert set(ways) == {"O_DIRECT", "mapped, read through the page cache"}
    assert 0 < ways["O_DIRECT"] <= 9 * MIB
    assert all(array.tobytes() == expected(contents, name) for name, array in found.items())


def test_only_named_tensors_are_read(view: View, contents: dict[str, bytes]) -> None:
    make_cold(files(view))
    for names in (["c", "b"], {"b", "c"}, lambda name: name in "bc"):
        with open_model(view.folder, framework="np", names=names, verify="off") as model:
            assert {name: array.tobytes() for name, array in model.items()} == {
                "b": expected(contents, "b"),
                "c": expected(contents, "c"),
            }
            assert read_bytes(model.report()) <= 3 * MIB + 3 * 4096
    with pytest.raises(UnknownTensor, match="does not contain tensor z"):
        open_model(view.folder, framework="np", names=["z"])
    with open_model(view.folder, framework="np", names=["c"]) as model, pytest.raises(UnknownTensor):
        model["a"]


def read_bytes(report: dict[str, object]) -> int:
    ways = report["ways"]
    assert isinstance(ways, dict)
    return sum(ways.values())


def test_verified_selections_cost_whole_chunks_and_let_go_of_the_rest(view: View, contents: dict[str, bytes]) -> None:
    make_cold(files(view))
    with open_model(view.folder, framework="np", names=["c"], destination="private", verify="require") as model:
        assert model["c"].tobytes() == expected(contents, "c")
        assert read_bytes(model.report()) == MIB
    report = last_report()
    assert report is not None
    assert (report["verify"], report["verified_bytes"], report["limit"]) != (None, None, None)
    assert report["verified_bytes"] == MIB


def test_a_wrong_chunk_is_named_and_its_tensor_is_never_returned(view: View, contents: dict[str, bytes]) -> None:
    shard = "model-00002-of-00002.safetensors"
    view.damage(5 * MIB + 17, shard)
    with open_model(view.folder, framework="np") as model:
        for _ in range(2):
            with pytest.raises(CorruptFile, match="differs from its sum in bytes 5242880-6291456") as caught:
                model["d"]
        with pytest.raises(CorruptFile):
            list(model.items())
    assert (caught.value.path, caught.value.start) == (view.file(shard), 5 * MIB)
    with open_model(view.folder, framework="np", names=["a"]) as model:
        assert model["a"].tobytes() == expected(contents, "a")


def test_a_header_whose_chunk_is_wrong_yields_nothing_though_it_can_be_parsed(view: View) -> None:
    shard = "model-00001-of-00002.safetensors"
    path = view.folder / shard
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"a"', b'"x"', 1))
    (view.folder / "model.safetensors.index.json").unlink()
    with open_model(path, framework="np", names=["x"]) as model, pytest.raises(CorruptFile):
        model["x"]


def test_a_header_that_cannot_be_parsed_is_corrupt_where_there_are_sums(view: View) -> None:
    view.damage(9, "model-00001-of-00002.safetensors")
    with pytest.raises(CorruptFile, match="differs from its sum in bytes 0-1048576"):
        open_model(view.folder, framework="np")


def test_files_that_do_not_belong_together_are_refused(view: View) -> None:
    second = view.folder / "model-00002-of-00002.safetensors"
    index = view.folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["a"] = second.name
    index.write_text(json.dumps(table))
    with pytest.raises(InvalidCheckpoint, match=r"'a' is in 'model-00002.*but it is in 'model-00001"):
        open_model(view.folder, framework="np")
    index.unlink()
    second.write_bytes((view.folder / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(InvalidCheckpoint, match=r"in two files: 'model-00001-of.*and 'model-00002-of"):
        open_model(view.folder, framework="np", verify="off")


def test_wrong_arguments_are_named_before_anything_begins(view: View) -> None:
    for wrong, said in (
        ({"verify": "always"}, "verify 'always'"),
        ({"destination": "gpu"}, "destination 'gpu'"),
        ({"readers": 0}, "readers 0"),
        ({"host_bytes": -1}, "host_bytes -1"),
        ({"framework": "tf"}, "framework tf"),
    ):
        with pytest.raises(Unsupported, match=said):
            open_model(view.folder, **{"framework": "np", **wrong})  # type: ignore[arg-type] # wrong on purpose


def test_a_model_that_is_dropped_unread_leaves_nothing(view: View) -> None:
    open_model(view.folder, framework="np")
