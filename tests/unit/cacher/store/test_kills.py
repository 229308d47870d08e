"""Every operation of the store, killed before and after each call that changes the disk, then opened and judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores.disks import KillingDisk
from stores.kills import calls_of, copied, killed, killed_in_recovery, kills
from stores.oracle import check_invariants
from stores.pods import POD_SCENARIOS
from stores.scenarios import CREATE, KNOWN, LITTLE, SCENARIOS, Scenario

from prestage.cacher.store.store import Store


@pytest.fixture
def base(fast_path: Path, scenario: Scenario) -> Path:
    root = fast_path / "base"
    with Store.open(root, own=True) as store:
        scenario.prepare(store)
    return root


def judge(scenario: Scenario, root: Path, acks: tuple[str, ...], point: str) -> None:
    try:
        with Store.open(root, own=True, budget_bytes=scenario.budget_bytes) as store:
            assert store.warnings == []
            check_invariants(root, KNOWN, damaged=scenario.damaged, rotten=scenario.rotten)
            scenario.check(store, acks)
        with Store.open(root, own=True):
            check_invariants(root, KNOWN, damaged=scenario.damaged)
    except Exception as exc:
        exc.add_note(f"{scenario.name}, killed {point}, after {acks}")
        raise


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_kill_at_any_step_loses_nothing_acknowledged_and_leaves_nothing_half(
    scenario: Scenario, base: Path, fast_path: Path
) -> None:
    count = 0
    for crash in kills(scenario, base, fast_path / "crashed"):
        judge(scenario, crash.root, crash.acks, crash.point)
        count += 1
    assert count >= 4


@pytest.mark.parametrize("scenario", [LITTLE], ids=str)
def test_a_kill_among_little_files_loses_none_that_was_published(scenario: Scenario, base: Path, fast_path: Path) -> None:
    for crash in kills(scenario, base, fast_path / "crashed", every=5):
        judge(scenario, crash.root, crash.acks, crash.point)


@pytest.mark.parametrize("every", [13, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scenario", POD_SCENARIOS, ids=str)
def test_a_kill_among_pods_trees_leaves_nothing_half(scenario: Scenario, base: Path, fast_path: Path, every: int) -> None:
    count = 0
    for crash in kills(scenario, base, fast_path / "crashed", every=every):
        judge(scenario, crash.root, crash.acks, crash.point)
        count += 1
    assert count >= 4


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.name in ("heal", "evict", "stage")], ids=str)
def test_a_kill_in_the_middle_of_recovery_is_recovered_from(scenario: Scenario, base: Path, fast_path: Path) -> None:
    killed_again = 0
    crashed = fast_path / "crashed"
    for fatal in range(0, calls_of(scenario, base, crashed), 7 if scenario.name == "stage" else 3):
        crash = killed(scenario, copied(base, crashed), KillingDisk(fatal, after=True), f"after call {fatal}")
        number = 0
        while killed_in_recovery(copied(crashed, fast_path / "again"), number):
            judge(scenario, fast_path / "again", crash.acks, f"{crash.point}, then at call {number} of recovery")
            killed_again += 1
            number += 1
    assert killed_again > 10


def test_a_kill_while_the_store_is_made_leaves_a_directory_that_becomes_a_store(fast_path: Path) -> None:
    root = fast_path / "new"
    number = 0
    while killed_in_recovery(root, number):
        judge(CREATE, root, (), f"at call {number} of its making")
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        root.rmdir()
        number += 1
    assert number > 8
