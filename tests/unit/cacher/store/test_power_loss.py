"""Every operation of the store, cut off by a power loss at any call, with whatever was not synced lost, kept or torn."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
from stores.making import Steps
from stores.oracle import check_invariants, check_trees
from stores.pods import POD_SCENARIOS
from stores.powerloss import Cut, RecordingDisk, another_boot, cuts, distinct
from stores.scenarios import CREATE, KNOWN, LITTLE, SCENARIOS, Scenario

from prestage.cacher.errors import PrestageError
from prestage.cacher.store.store import Store

SEED = 20_260_101
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def recorded(scenario: Scenario, root: Path, without: Callable[[int, str], bool] = lambda number, kind: False) -> RecordingDisk:
    """The calls of one undisturbed run."""
    if scenario is not CREATE:
        with Store.open(root, own=True) as store:
            scenario.prepare(store)
    disk = RecordingDisk(root, without=without)
    with Store.open(root, own=True, budget_bytes=scenario.budget_bytes, disk=disk) as store:
        scenario.act(store, Steps(disk.ack))
    return disk


def judge(scenario: Scenario, states: Iterable[Cut], root: Path) -> int:
    """Open each state and check it, once where cuts leave the same; how many cuts there were."""
    count = 0

    def counted() -> Iterator[Cut]:
        nonlocal count
        for cut in states:
            count += 1
            yield cut

    for cut in distinct(counted()):
        subprocess.run(["rm", "-rf", str(root)], check=True)
        cut.tree.write(root)
        try:
            with another_boot(root.parent):
                with Store.open(root, own=True, budget_bytes=scenario.budget_bytes) as store:
                    check_invariants(root, KNOWN, damaged=scenario.damaged, rotten=scenario.rotten)
                    scenario.check(store, cut.acks)
                with Store.open(root, own=True):
                    check_invariants(root, KNOWN, damaged=scenario.damaged)
        except Exception as exc:
            exc.add_note(f"{scenario.name}: {cut.point}; acknowledged: {cut.acks}")
            raise
    return count


@pytest.mark.parametrize("scenario", [*SCENARIOS, CREATE], ids=str)
def test_a_power_cut_at_any_call_loses_nothing_acknowledged_and_leaves_nothing_half(scenario: Scenario, fast_path: Path) -> None:
    disk = recorded(scenario, fast_path / "run")
    long = len(disk.log) > 60
    count = judge(scenario, cuts(disk, samples=2 if long else 4, seed=SEED, every=2 if long else 1), fast_path / "cut")
    assert count > 2 * len(disk.log) // 2


def test_a_power_cut_among_little_files_loses_none_that_was_published(fast_path: Path) -> None:
    disk = recorded(LITTLE, fast_path / "run")
    assert judge(LITTLE, cuts(disk, samples=4, seed=SEED, every=7), fast_path / "cut") > len(disk.log) // 7


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_little_files_without_their_fsyncs_are_caught(kind: str, fast_path: Path) -> None:
    assert is_caught(LITTLE, lambda _, what: what == kind, fast_path)


@pytest.mark.parametrize("every", [19, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scenario", POD_SCENARIOS, ids=str)
def test_a_power_cut_among_pods_trees_leaves_nothing_half(scenario: Scenario, every: int, fast_path: Path) -> None:
    disk = recorded(scenario, fast_path / "run")
    assert judge(scenario, cuts(disk, samples=2, seed=SEED, every=every), fast_path / "cut") > len(disk.log) // every


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_many_more_power_cuts(scenario: Scenario, fast_path: Path) -> None:
    disk = recorded(scenario, fast_path / "run")
    states = chain.from_iterable(cuts(disk, samples=8, seed=seed) for seed in range(3))
    assert judge(scenario, states, fast_path / "cut") > 3 * 8 * len(disk.log) // 2


@pytest.mark.parametrize("name", ["publish a blob", "publish a view", "compose", "hold"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_store_without_its_fsyncs_is_caught(name: str, kind: str, fast_path: Path) -> None:
    """The proof that these tests can see: the same run with every sync of one kind left out of the record."""
    assert is_caught(BY_NAME[name], lambda _, what: what == kind, fast_path)


def test_a_journal_that_is_not_synced_after_its_data_is_caught(fast_path: Path) -> None:
    assert is_caught(BY_NAME["journal"], lambda _, what: what == "data", fast_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "needless"),
    [
        ("journal", 0),
        ("publish a blob", 1),  # that the ingest is gone: one that comes back is dropped at the next start
        ("publish a view", 0),
        ("heal", 0),
        ("quarantine", 0),
        ("heal a tree", 0),
        ("hold", 0),
        ("unpin", 0),
        ("record a ref", 0),
    ],
)
def test_there_is_no_fsync_that_could_be_left_out(name: str, needless: int, fast_path: Path) -> None:
    scenario = BY_NAME[name]
    syncs = recorded(scenario, fast_path / "whole").syncs
    caught = [is_caught(scenario, partial(_is, left_out), fast_path) for left_out in range(syncs)]
    assert syncs - sum(caught) == needless


@pytest.mark.parametrize("name", ["compose", "drop a tree"])
def test_a_tree_is_complete_or_absent_before_anybody_starts(name: str, fast_path: Path) -> None:
    counts = set(judge_trees(cuts(recorded(BY_NAME[name], fast_path / "run"), samples=3, seed=SEED, every=2), fast_path / "cut"))
    assert counts == {0, 1}


@pytest.mark.slow
def test_there_is_no_fsync_of_a_tree_that_could_be_left_out(fast_path: Path) -> None:
    """The next start would heal much of it; nobody need wait for that."""
    scenario = BY_NAME["compose"]
    syncs = recorded(scenario, fast_path / "whole").syncs
    needless = []
    for left_out in range(syncs):
        subprocess.run(["rm", "-rf", str(fast_path / "run")], check=True)
        disk = recorded(scenario, fast_path / "run", partial(_is, left_out))
        try:
            list(judge_trees(cuts(disk, samples=6, seed=SEED), fast_path / "cut"))
        except (AssertionError, OSError, ValueError):
            continue
        needless.append(left_out)
    assert needless == [0], "that of holds/ after the first of two artifacts: it is synced again after the second"


def judge_trees(states: Iterable[Cut], root: Path) -> Iterator[int]:
    """How many trees each state has; asserts that they are whole, and that none is lost that was acknowledged."""
    for cut in distinct(states):
        subprocess.run(["rm", "-rf", str(root)], check=True)
        cut.tree.write(root)
        count = check_trees(root, KNOWN)
        assert count or not any(ack.startswith("tree ") for ack in cut.acks)
        yield count


def _is(left_out: int, number: int, _kind: str) -> bool:
    return number == left_out


def is_caught(scenario: Scenario, without: Callable[[int, str], bool], folder: Path) -> bool:
    """Some cut of a run without these syncs breaks an invariant."""
    subprocess.run(["rm", "-rf", str(folder / "run")], check=True)
    disk = recorded(scenario, folder / "run", without)
    try:
        judge(scenario, cuts(disk, samples=6, seed=SEED), folder / "cut")
    except (AssertionError, PrestageError, OSError, ValueError):
        return True
    return False
