"""`prestage bench load`: every variant runs, and the result says what was measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from loading import bytes_tensors

from prestage.bench import load_child, load_run
from prestage.bench.checkpoint import make_checkpoint
from prestage.bench.cold import StillWarm, make_cold
from prestage.bench.load import LoadResult, load
from prestage.bench.load_job import LoadJob, check_device
from prestage.bench.load_rows import goals, rows
from prestage.bench.machine import LoadWatch, describe
from prestage.cacher.errors import Misconfigured

pytest.importorskip("safetensors", reason="`bench load` compares with the safetensors library")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = tmp_path / "model"
    folder.mkdir()
    for number in (1, 2):
        content = bytes_tensors({f"a{number}": (5 << 20) + 3, f"b{number}": 1 << 20}, seed=number)
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(content)
    try:
        make_cold(sorted(folder.iterdir()))
    except StillWarm:
        pytest.skip("the temporary folder lies in memory (tmpfs), which has no cold state")
    return folder


def run(model: Path, *options: str) -> dict[str, Any]:
    done = CliRunner().invoke(load, [str(model), "--framework", "np", "--json", *options])
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


FIELDS = {
    "loader", "state", "verify", "gb_per_s", "cpu_s_per_gb", "peak_rss_mib", "disk_share", "ratio_to_raw", "ratio_to_mmap",
    "summaries",
}  # fmt: skip


def test_a_folder_is_measured_by_every_loader_in_every_state_and_left_as_it_was(model: Path) -> None:
    before = sorted(model.iterdir())
    result = run(model, "--rounds", "1")
    assert (result["files"], result["framework"], result["device"], result["rounds"]) == (2, "np", "cpu", 1)
    assert result["bytes"] == sum(file.stat().st_size for file in before)
    assert set(result["not_run"]) == {"fastsafetensors", "runai"}
    assert all(set(row) == FIELDS and row["gb_per_s"] > 0 for row in result["rows"])
    by = {(row["state"], row["loader"], row["verify"]): row for row in result["rows"]}
    for state in ("hot", "cold"):
        assert {(state, "prestage", "on"), (state, "prestage", "off"), (state, "safetensors", "off")} <= set(by)
    assert ("half", "prestage-private", "off") in by
    assert by["cold", "raw-8", "off"]["disk_share"] >= 0.99
    assert by["cold", "prestage", "off"]["disk_share"] >= 0.9
    assert by["hot", "prestage", "off"]["disk_share"] <= 0.1
    assert {goal["name"] for goal in result["goals"]} >= {
        "hot, verify off / safetensors mmap",
        "half / mapped only",
        "script start to all tensors, cold / max(import, read)",
    }
    assert (sorted(model.iterdir()), list(Path.cwd().iterdir())) == (before, [])


@pytest.mark.parametrize(
    ("loader", "state", "said"),
    [("prestage", "hot", ["1 of 2 hot runs read from the disk"]), ("prestage", "cold", []), ("fastsafetensors", "hot", [])],
)
def test_a_hot_run_that_was_none_is_said_to_be_noisy(tmp_path: Path, loader: str, state: str, said: list[str]) -> None:
    job = LoadJob((tmp_path / "m",), "np", (state,), None, rounds=2, seed=1)
    samples = {number: {"foreign_cores": 0.0, "disk_bytes": read} for number, read in enumerate((9_999.0, 10_001.0))}
    result = LoadResult(job, describe(tmp_path), 1_000_000, {}, {(loader, state): samples})
    assert [one.partition(":")[0] for one in result.noisy()] == said


def test_only_loaders_that_copy_are_handed_memory_for_hot_files(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed = dict[str, int]()
    run_child = load_child.run

    def noted(
        variants: Sequence[str], framework: str, files: Sequence[Path], memory: int, ready: Callable[[], object], *, device: str
    ) -> Any:
        handed[variants[0]] = memory
        return run_child(variants, framework, files, memory, ready, device=device)

    monkeypatch.setattr(load_child, "run", noted)
    result = run(model, "--rounds", "1", "--state", "hot", "--loaders", "safetensors,prestage")
    assert handed["safetensors"] - handed["prestage"] == result["bytes"], "it copies for numpy"


def test_ranks_load_at_once_and_their_bytes_from_disk_add_up(model: Path) -> None:
    result = run(model, "--rounds", "1", "--ranks", "2")
    (goal,) = [goal for goal in result["goals"] if "ranks" in goal["name"]]
    assert (goal["name"], goal["at_most"]) == ("2 ranks: bytes from disk / checkpoint", True)
    assert 0.9 <= goal["measured"]["median"] < 2


def test_what_a_child_does_after_its_answer_is_no_foreign_load(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To unload torch takes longer than many a load."""
    files = sorted(model.iterdir())
    busy = "import time\nuntil = time.perf_counter() + 2\nwhile time.perf_counter() < until: pass\n"
    child = "import sys\nprint('READY', flush=True)\nsys.stdin.readline()\n"
    answer = 'print(\'{"load_s": 1, "touch_s": 0, "cpu_s": 0}\', flush=True)\n'
    (model.parent / "busy_child.py").write_text(child + answer + busy)
    monkeypatch.syspath_prepend(str(model.parent))
    monkeypatch.setattr(load_child, "_LOAD", "busy_child")
    seen = list[float]()
    foreign_cores = LoadWatch.foreign_cores

    def noted(watch: LoadWatch, own_s: float) -> float:
        seen.append(time.perf_counter())
        return foreign_cores(watch, own_s)

    monkeypatch.setattr(LoadWatch, "foreign_cores", noted)
    load_child.run(["prestage"], "np", files, 1 << 20, lambda: None)
    assert time.perf_counter() - seen[0] > 1.5, "asked when the answer came, not when the process ended"


def test_the_table_names_loaders_and_goals(model: Path) -> None:
    options = ["--framework", "np", "--rounds", "1", "--state", "hot", "--loaders", "safetensors,prestage,xxh3,prestage-verified"]
    done = CliRunner().invoke(load, [str(model), *options])
    assert done.exit_code == 0, done.output
    for said in (
        "2 files",
        "np, cpu, 1 rounds",
        "VS MMAP",
        "hot, verified / a pure xxh3 pass (load)",
        "not run: runai (knows torch only)",
    ):
        assert said in done.stdout


def sample(total_s: float) -> dict[str, float]:
    return {"load_s": total_s, "total_s": total_s, "cpu_s": 1.0, "beyond_bytes": 10 << 20, "disk_bytes": 5e8, "sum": 1}


def test_ratios_are_taken_inside_rounds_and_raw_is_the_best_depth() -> None:
    samples = {
        ("safetensors", "cold"): {0: sample(2.0), 1: sample(4.0)},
        ("prestage", "cold"): {0: sample(1.0), 1: sample(1.0)},
        ("raw-4", "cold"): {0: sample(0.9), 1: sample(2.0)},
        ("raw-8", "cold"): {0: sample(1.5), 1: sample(0.8)},
    }
    samples |= {(part, "script"): {0: {"total_s": seconds}} for part, seconds in (("script", 3.0), ("script-import", 2.0))}
    assert not [goal for goal in goals(samples) if goal.name.startswith("script")], "without a read there is no larger of two"
    samples["script-read", "script"] = {0: {"total_s": 2.5}}
    assert next(goal for goal in goals(samples) if goal.name.startswith("script")).measured.values == (1.2,)
    samples = {key: by_round for key, by_round in samples.items() if key[1] == "cold"}
    row = next(row for row in rows(samples, 10**9) if row.loader == "prestage")
    assert row.ratio_to_mmap is not None
    assert row.ratio_to_raw is not None
    assert row.ratio_to_mmap.values == (2.0, 4.0)
    assert row.ratio_to_raw.values == (0.9, 0.8)
    assert (row.gb_per_s.median, row.cpu_s_per_gb, row.peak_rss_mib, row.disk_share) == (1.0, 1.0, 10.0, 0.5)
    met = {goal.name: goal.met for goal in goals(samples)}
    assert met == {"cold, verify off / raw (load)": False, "peak RSS beyond the tensors, MiB": True}


def test_a_load_to_a_device_has_goals_of_its_own() -> None:
    samples = {
        ("safetensors", "hot"): {0: sample(3.0)},
        ("prestage", "hot"): {0: sample(1.25)},
        ("prestage-verified", "hot"): {0: sample(2.0)},
        ("pinned", "hot"): {0: sample(1.0)},
        ("prestage", "cold"): {0: sample(2.0)},
        ("raw-8", "cold"): {0: sample(2.0)},
    }
    found = {goal.name: (goal.asked, goal.measured.median, goal.met) for goal in goals(samples, on_device=True)}
    assert found == {
        "to the device, hot, verify off / pinned copies (load)": (0.9, 0.8, False),
        "to the device, cold, verify off / raw (load)": (0.95, 1.0, True),
    }
    assert not [goal.name for goal in goals(samples) if "device" in goal.name]
    row = next(row for row in rows(samples, 10**9) if (row.loader, row.state) == ("prestage", "hot"))
    assert row.ratio_to_mmap is not None
    assert row.ratio_to_mmap.median == 2.4


def device_job(*states: str, loaders: frozenset[str] | None = None) -> LoadJob:
    return LoadJob((Path("m"),), "pt", states, loaders, rounds=1, seed=1, device="cuda:0")


def test_a_device_has_its_own_loaders_and_limits_and_is_handed_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: module != "instanttensor")
    found, not_run = device_job("hot", "cold").variants()
    both = ("safetensors", "fastsafetensors", "runai", "prestage", "prestage-verified")
    hot, cold = (*both, "pinned"), (*both, "raw-4", "raw-8", "raw-16", "raw-32")
    assert found == [*((name, "hot") for name in hot), *((name, "cold") for name in cold)]
    assert set(not_run) == {"instanttensor", "instanttensor-buffered"}
    assert {name for name, state in found if not device_job("hot").takes_no_memory(name, state)} == {"runai"}
    assert all(name in load_run.VARIANTS for name in (*both, *not_run))
    with pytest.raises(Misconfigured, match="'transformers' is none of hot; say some of fastsafetensors, instanttensor"):
        device_job("hot", loaders=frozenset({"transformers"})).variants()
    with pytest.raises(Misconfigured, match="none of these loaders"):
        device_job("hot", loaders=frozenset({"instanttensor"})).variants()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--device tpu", 'say "cpu", "cuda" or "cuda:N"'),
        ("--device cuda:x", 'say "cpu", "cuda" or "cuda:N"'),
        ("--device cuda --state half", "--state half is of loads to memory, not to cuda:0; say --state hot or --state cold"),
        ("--device cuda:1 --state hot --state script", "--state script is of loads to memory, not to cuda:1"),
        ("--device cuda --ranks 2", "--ranks is of loads to memory"),
        ("--ranks 2 --state cold", "--ranks measures what it measures: cold, ours and safetensors"),
        ("--ranks 2 --loaders prestage", "leave out --state and --loaders"),
        ("--loaders prestage,xx", "--loaders 'xx' is none of hot, cold, half, script; say some of fastsafetensors"),
        ("--device cuda --framework np", "--device cuda:0 needs torch, not np; pip install torch, and say --framework pt"),
    ],
)
def test_what_cannot_be_measured_is_refused(model: Path, options: str, said: str) -> None:
    done = CliRunner().invoke(load, [str(model), *options.split(" ")])
    assert isinstance(done.exception, Misconfigured)
    assert said in str(done.exception)
    assert list(Path.cwd().iterdir()) == []


def test_a_machine_where_torch_sees_no_gpu_is_refused_before_anything_is_measured(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("prestage.bench.load.measure", lambda *_: pytest.fail("it measures"))
    done = CliRunner().invoke(load, [str(model), "--device", "cuda"])
    assert isinstance(done.exception, Misconfigured)
    assert "--device cuda:0: torch sees no CUDA device here; it needs a GPU" in str(done.exception)


def test_a_device_beyond_those_that_are_here_is_refused() -> None:
    check_device("cuda:1", 2)
    with pytest.raises(Misconfigured, match="torch sees 2 here, from cuda:0 on"):
        check_device("cuda:2", 2)


def test_torch_and_numpy_come_to_one_sum_wherever_a_tensor_begins(model: Path) -> None:
    torch = pytest.importorskip("torch")
    files = [str(file) for file in sorted(model.iterdir())]
    right = load_run.measure("safetensors", "np", files)["sum"]
    assert load_run.measure("safetensors", "pt", files)["sum"] == right
    assert load_run.measure("prestage", "pt", files)["sum"] == right
    whole = torch.arange(24, dtype=torch.uint8)
    assert load_run._torch_sum([whole[3:23]]) == load_run._torch_sum([whole[3:23].clone()])


def test_the_sum_covers_every_byte(model: Path) -> None:
    files = [str(file) for file in sorted(model.iterdir())]
    right = load_run.measure("safetensors", "np", files)["sum"]
    assert load_run.measure("prestage", "np", files)["sum"] == right
    with open(files[0], "r+b") as changed:
        changed.seek(-1, 2)
        last = changed.read(1)[0]
        changed.seek(-1, 2)
        changed.write(bytes([last ^ 1]))
    assert load_run.measure("prestage", "np", files)["sum"] != right


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(load, [str(tmp_path)])
    assert isinstance(done.exception, Misconfigured)
    assert "no *.safetensors" in str(done.exception)


def test_of_a_folder_that_was_written_twice_only_what_its_index_names_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = list[LoadJob]()

    def measure(job: LoadJob, scratch: Path, tell: Callable[[str], None]) -> LoadResult:
        measured.append(job)
        return LoadResult(job, describe(tmp_path), 0, {})

    folder = tmp_path / "model"
    make_checkpoint(folder, 8 << 20, shard_bytes=2 << 20)
    made = make_checkpoint(folder, 4 << 20, shard_bytes=2 << 20)
    assert len(list(folder.glob("*.safetensors"))) > len(made.shards)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prestage.bench.load.measure", measure)
    assert CliRunner().invoke(load, [str(folder), "--framework", "np", "--json"]).exit_code == 0
    assert measured[0].files == made.shards
