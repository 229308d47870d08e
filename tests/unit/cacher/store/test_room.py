"""Room: budgets, promises, what goes and what stays under pressure."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from stores.making import Model, Steps, content, fill, ingesting, stage
from stores.namespaces import in_a_mount_namespace
from stores.scenarios import is_whole

from prestage.cacher.digests import ArtifactId, hex_of
from prestage.cacher.errors import Busy, Full
from prestage.cacher.store import eviction, room
from prestage.cacher.store import store as store_module
from prestage.cacher.store.budget import Candidate, Kind, LeastRecentlyUsed, Usage, to_evict
from prestage.cacher.store.disk import Disk
from prestage.cacher.store.margin import default_margin
from prestage.cacher.store.store import Store

KIB = 1 << 10
BLOCKS = 100 * KIB
"""Of each model below: 25 blocks of 4 KiB."""


def model(name: str, size_bytes: int = BLOCKS) -> Model:
    return Model({f"{name}.bin": content(size_bytes, name)}, f"s3://bucket/{name}/", "s3:bucket")


ONE, TWO, THREE = model("one"), model("two"), model("three")


def used_at(store: Store, artifact: ArtifactId, seconds: float) -> None:
    os.utime(store.root / "views" / hex_of(artifact), (seconds, seconds))


def test_what_does_not_fit_is_refused_before_its_first_byte_and_says_what_holds_the_room(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, budget_bytes=2 * BLOCKS, margin_bytes=0) as store:
        stage(store, ONE)
        stage(store, TWO)
        store.hold(ONE.artifact, kind="pin", note="prod")
        big = model("big", 2 * BLOCKS)
        steps = Steps()
        with pytest.raises(Full) as caught:
            stage(store, big, steps)
        assert steps.fetched == []
        said = str(caught.value)
        assert "0.20 MB do not fit: 0.10 MB too many for the budget of 0.20 MB" in said
        assert "held: s3://bucket/one/ 0.10 MB by pin (prod)" in said
        assert "unpin" in said
        assert is_whole(store, ONE)
        assert is_whole(store, TWO), "what would not have helped was evicted"
        assert store.room.usage().reserved == 0


def test_the_longest_unused_goes_first_and_a_use_counts(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, budget_bytes=2 * BLOCKS, margin_bytes=0) as store:
        stage(store, ONE)
        stage(store, TWO)
        used_at(store, ONE.artifact, 1000)
        used_at(store, TWO.artifact, 2000)
        store.path(ONE.artifact)
        stage(store, THREE)
        assert {row.artifact for row in store.list()} == {ONE.artifact, THREE.artifact}


def test_a_held_artifact_stays_whatever_the_pressure(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, budget_bytes=2 * BLOCKS, margin_bytes=0) as store:
        stage(store, ONE)
        used_at(store, ONE.artifact, 1)
        store.hold(ONE.artifact, kind="run")
        for number in range(5):
            stage(store, model(f"other {number}"))
        assert is_whole(store, ONE)
        with pytest.raises(Busy, match=r"held by run \(pid"):
            store.evict(ONE.artifact)


def test_last_use_survives_a_restart_and_a_lost_index(fast_path: Path) -> None:
    root = fast_path / "store"
    with Store.open(root, own=True) as store:
        stage(store, ONE)
        stage(store, TWO)
        used_at(store, ONE.artifact, 3000)
        used_at(store, TWO.artifact, 2000)
    (root / "index.db").unlink()
    with Store.open(root, own=True, budget_bytes=2 * BLOCKS, margin_bytes=0) as store:
        stage(store, THREE)
        assert {row.artifact for row in store.list()} == {ONE.artifact, THREE.artifact}


def test_preallocated_bytes_count_once(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, budget_bytes=BLOCKS, margin_bytes=0) as store:
        artifact = store.put_manifest(ONE.manifest)
        with store.reserve(BLOCKS, artifact=artifact):
            assert (store.room.usage().used, store.room.usage().reserved) == (0, BLOCKS)
            with ingesting(store, ONE, "one.bin") as ingest:
                assert (store.room.usage().used, store.room.usage().reserved) == (BLOCKS, 0)
                fill(ingest, ONE.contents["one.bin"])
                assert store.room.usage().used == BLOCKS
                ingest.finish()
                assert store.room.usage().used == BLOCKS
        assert store.room.usage().reserved == 0


def test_an_interrupted_fetch_is_resumed_in_the_room_it_has(fast_path: Path) -> None:
    root = fast_path / "store"
    with Store.open(root, own=True, budget_bytes=BLOCKS, margin_bytes=0) as store:
        artifact = store.put_manifest(ONE.manifest)
        with store.reserve(BLOCKS, artifact=artifact), ingesting(store, ONE, "one.bin") as ingest:
            fill(ingest, ONE.contents["one.bin"])
    with Store.open(root, own=True, budget_bytes=BLOCKS, margin_bytes=0) as store:
        steps = Steps()
        stage(store, ONE, steps)
        assert steps.fetched == []
        assert is_whole(store, ONE)


def test_promises_to_others_are_kept(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, budget_bytes=2 * BLOCKS, margin_bytes=0) as store:
        for one in (ONE, TWO, THREE):
            store.put_manifest(one.manifest)
        with store.reserve(BLOCKS, artifact=ONE.artifact) as first:
            with store.reserve(BLOCKS, artifact=TWO.artifact):
                with pytest.raises(Full, match="promised to other fetches"):
                    store.reserve(BLOCKS, artifact=THREE.artifact)
                with pytest.raises(Busy, match="being staged"):
                    store.evict(ONE.artifact)
            first.release(BLOCKS // 2)
            assert store.room.usage().reserved == BLOCKS // 2
            first.release()
            assert store.room.usage().reserved == 0


def test_what_is_half_fetched_and_not_asked_for_goes_under_pressure(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, budget_bytes=BLOCKS, margin_bytes=0) as store:
        artifact = store.put_manifest(ONE.manifest)
        with store.reserve(BLOCKS, artifact=artifact), ingesting(store, ONE, "one.bin"):
            assert store.room.usage().used == BLOCKS
        stage(store, TWO)
        assert [row.artifact for row in store.list()] == [TWO.artifact]
        assert list((store.root / "ingest").iterdir()) == []


def test_quarantine_goes_before_anything_that_is_of_use(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, budget_bytes=3 * BLOCKS, margin_bytes=0) as store:
        stage(store, ONE)
        blob = hex_of(store.binding(ONE.artifact)["one.bin"])
        path = store.root / "blobs" / blob[:2] / blob
        path.chmod(0o600)
        path.write_bytes(bytes(BLOCKS))
        assert store.verify().quarantined
        stage(store, ONE)
        stage(store, TWO)
        assert store.room.usage().used == 3 * BLOCKS
        stage(store, THREE)
        assert list((store.root / "quarantine").iterdir()) == []
        assert all(is_whole(store, one) for one in (ONE, TWO, THREE))


def test_evict_says_what_it_really_freed_although_somebody_maps_the_file(tmp_path: Path) -> None:
    """On a file system of its own, where nobody else's writing blurs the account."""
    script = f"""
set -e
mkdir -p {tmp_path}/disk
mount -t tmpfs -o size=64m none {tmp_path}/disk
{sys.executable} -c '
import mmap, sys
from pathlib import Path
from stores.making import Model, content, stage
from prestage.cacher.store.store import Store
mapped, free = (Model(dict([(name, content(8 << 20, name))]), f"s3://b/{{name}}", "s3:b") for name in ("mapped", "free"))
with Store.open(Path(sys.argv[1]), own=True) as store:
    stage(store, mapped)
    stage(store, free)
    with (store.path(mapped.artifact) / "mapped").open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    before = store.room.usage()
    freed = store.evict(mapped.artifact)
    after = store.room.usage()
    print(freed < 1 << 20, view[:16] == mapped.contents["mapped"][:16], before.used - after.used >= 8 << 20)
    print(after.limit <= before.limit - (7 << 20))
    view.close()
    print(store.evict(free.artifact) >= 8 << 20)
' {tmp_path}/disk/store
"""
    nothing_freed_but_usable, limit, rest = in_a_mount_namespace(script).stdout.splitlines()
    assert nothing_freed_but_usable == "True True True"
    assert limit == "True", "what a map still takes is not promised to anybody"
    assert rest == "True"


def test_neither_an_evict_nor_who_makes_room_waits_for_bytes_that_others_take(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter(range(10**15, 0, -(10**9)))
    for module in (eviction, room, store_module):
        monkeypatch.setattr(module, "free_bytes", lambda _: next(free))  # somebody writes a gigabyte between any two looks
    for module in (eviction, room):
        monkeypatch.setattr(module, "SETTLE_S", 40.0)
    with Store.open(fast_path / "store", own=True, budget_bytes=2 * BLOCKS, margin_bytes=0) as store:
        for one in (ONE, TWO):
            stage(store, one)
        began = time.monotonic()
        stage(store, THREE)
        assert time.monotonic() - began < 20
        began = time.monotonic()
        assert store.evict(THREE.artifact) == 0
        assert time.monotonic() - began < 20


def test_who_makes_room_waits_for_a_disk_that_frees_in_the_background(fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As xfs does; without waiting, more would be let go of than is needed."""
    unlinked: list[float] = []
    real = Disk.unlink

    def unlink(self: Disk, path: Path) -> None:
        if path.parent.parent.name == "blobs" and not path.suffix:
            unlinked.append(time.monotonic())
        real(self, path)

    def free(_: Path) -> int:
        return BLOCKS // 2 + BLOCKS * sum(time.monotonic() > at + 0.2 for at in unlinked)

    monkeypatch.setattr(Disk, "unlink", unlink)
    with Store.open(fast_path / "store", own=True, margin_bytes=0) as store:
        for number, one in enumerate((ONE, TWO)):
            stage(store, one)
            used_at(store, one.artifact, 100 + number)
        for module in (eviction, room, store_module):
            monkeypatch.setattr(module, "free_bytes", free)
        store.put_manifest(THREE.manifest)
        with store.reserve(BLOCKS, artifact=THREE.artifact):
            assert [row.artifact for row in store.list() if row.state == "staged"] == [TWO.artifact]


def test_the_margin_is_left_free(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True, margin_bytes=1 << 60) as store:
        with pytest.raises(Full, match="margin"):
            stage(store, ONE)
        assert store.room.usage().room < 0


def test_the_default_margin_is_small_on_small_disks_and_bounded_on_large_ones() -> None:
    assert default_margin(100 << 20) == 2 << 20
    assert default_margin(10 << 40) == 1 << 30


def test_on_the_kubelets_disk_the_margin_stays_clear_of_its_thresholds() -> None:
    assert default_margin(10 << 40, is_shared=True) > (10 << 40) * 15 // 100


def candidate(name: str, used: float, blobs: dict[str, int], *, holds: str = "", kind: Kind = Kind.ARTIFACT) -> Candidate:
    return Candidate(kind, name, name, used, blobs, holds=holds)


def usage(room: int) -> Usage:
    return Usage(used=100, reserved=0, free=1000, margin=0, budget=100 + room)


def evicted(needed: int, room: int, candidates: list[Candidate]) -> list[str]:
    return [chosen.key for chosen in to_evict(needed, usage(room), candidates, LeastRecentlyUsed())]


def test_nothing_goes_when_it_fits() -> None:
    assert evicted(10, 10, [candidate("a", 1, {"x": 50})]) == []


def test_a_shared_blob_frees_its_room_only_with_the_last_that_names_it() -> None:
    shared = [candidate("a", 1, {"x": 50}), candidate("b", 2, {"x": 50, "y": 1}), candidate("c", 3, {"z": 50})]
    assert evicted(50, 0, shared) == ["a", "b"]
    assert evicted(51, 0, shared) == ["a", "b"]
    held = [candidate("a", 1, {"x": 50}), candidate("b", 2, {"x": 50}, holds="pin"), candidate("c", 3, {"z": 50})]
    assert evicted(50, 0, held) == ["c"], "evicting a would have freed nothing"


def test_what_turned_out_not_to_be_needed_stays() -> None:
    assert evicted(90, 0, [candidate("small", 1, {"s": 10}), candidate("large", 2, {"l": 100})]) == ["large"]


def test_leftovers_go_before_artifacts() -> None:
    rows = [candidate("old", 1, {"a": 10}), candidate("left", 9, {"b": 10}, kind=Kind.LEFTOVER)]
    assert evicted(5, 0, rows) == ["left"]


def test_a_disk_that_others_filled_makes_the_room_smaller() -> None:
    assert Usage(used=100, reserved=0, free=30, margin=10, budget=1000).room == 20
    assert Usage(used=100, reserved=15, free=30, margin=10, budget=None).room == 5
