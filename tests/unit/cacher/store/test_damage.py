"""Damage: found by the scrubber or told by a reader, taken out of use, said to whom it concerns, healed."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.making import Model, Steps, blob_of, fetch, stage
from stores.namespaces import in_a_mount_namespace
from stores.oracle import check_invariants
from stores.scenarios import KNOWN, OTHER, PARTS, SHARING, SMALL, TWO_PIECES, damage, is_whole

from prestage.cacher.digests import CHUNK_BYTES, hex_of
from prestage.cacher.errors import Misconfigured, NotFound, Unavailable
from prestage.cacher.store import chunks
from prestage.cacher.store.chunks import Verdict
from prestage.cacher.store.scrubber import Scrubber, Step
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms

PATH = "sub/dir/weights.bin"
ALL = (SMALL, SHARING, OTHER, TWO_PIECES)


@pytest.fixture
def clock() -> list[float]:
    return [2_000_000_000.0]


@pytest.fixture
def store(fast_path: Path, clock: list[float]) -> Iterator[Store]:
    with Store.open(fast_path / "store", own=True, now=lambda: clock[0]) as store:
        for model in ALL:
            stage(store, model)
        yield store


def blob_path(store: Store, data: bytes) -> Path:
    name = hex_of(blob_of(data))
    return store.root / "blobs" / name[:2] / name


def damage_at(store: Store, data: bytes, at: int) -> None:
    path = blob_path(store, data)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))
    path.chmod(0o444)


def whole_pass(scrubber: Scrubber, budget_bytes: int = 1 << 30) -> list[Step]:
    steps: list[Step] = []
    while not steps or not steps[-1].is_idle:
        steps.append(scrubber.step(budget_bytes))
    return steps


def test_a_pass_reads_every_blob_once_in_small_steps(store: Store) -> None:
    steps = whole_pass(store.damage.scrubber(), 1)
    distinct = {blob_of(data): len(data) for model in ALL for data in model.contents.values()}
    assert sum(step.bytes for step in steps) == sum(distinct.values())
    assert sum(step.blobs for step in steps) == len(distinct)
    assert max(step.bytes for step in steps) == CHUNK_BYTES
    assert not any(step.events for step in steps)


def test_a_step_ends_once_its_budget_is_spent_and_the_next_goes_on(store: Store) -> None:
    scrubber = store.damage.scrubber()
    sizes = [step.bytes for step in whole_pass(scrubber, 2 * CHUNK_BYTES)]
    assert all(size <= 3 * CHUNK_BYTES for size in sizes)
    assert len(sizes) >= 2


def test_what_was_verified_longest_ago_goes_first_and_what_is_fresh_is_not_due(store: Store, clock: list[float]) -> None:
    scrubber = store.damage.scrubber()
    assert scrubber.step(1 << 30, older_than_s=2_000_000_000).bytes == 0
    whole_pass(scrubber)
    assert scrubber.oldest_verified_at() == clock[0]
    assert scrubber.step(1 << 30, older_than_s=60) == Step(is_idle=True)
    clock[0] += 100
    store.verify(OTHER.artifact)
    clock[0] += 50
    step = scrubber.step(1 << 30, older_than_s=60)
    assert step.blobs == len({blob_of(data) for model in ALL for data in model.contents.values()}) - 1
    assert scrubber.oldest_verified_at() == clock[0] - 50


def test_when_it_was_verified_outlives_a_restart_and_its_loss_costs_only_time(fast_path: Path) -> None:
    root = fast_path / "store"
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
        whole_pass(store.damage.scrubber())
        oldest = store.damage.scrubber().oldest_verified_at()
    with Store.open(root, own=True) as store:
        assert store.damage.scrubber().oldest_verified_at() == oldest
    (root / "index.db").unlink()
    with Store.open(root, own=True) as store:
        assert (store.damage.scrubber().oldest_verified_at() or 0) <= (oldest or 0)
        assert sum(step.blobs for step in whole_pass(store.damage.scrubber())) == 3


def test_an_index_without_the_table_gets_it(fast_path: Path) -> None:
    root = fast_path / "store"
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
    db = sqlite3.connect(root / "index.db")
    db.execute("DROP TABLE verified")
    db.commit()
    db.close()
    with Store.open(root, own=True) as store:
        whole_pass(store.damage.scrubber())
        assert store.damage.scrubber().oldest_verified_at() is not None


def test_a_store_of_nothing_or_of_empty_files_comes_to_an_end(fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True) as store:
        assert store.damage.scrubber().step(1) == Step(is_idle=True)
        assert store.damage.scrubber().oldest_verified_at() is None
        stage(store, Model({"a": b"", "b": b""}))
        assert store.damage.scrubber().step(1) == Step(blobs=1, is_idle=True)


def test_damage_is_found_taken_out_of_use_and_said_to_whom_it_concerns(store: Store, clock: list[float]) -> None:
    tree = store.compose(PARTS[:1], Terms("pin"))
    damage(store, SMALL, PATH)
    damage_at(store, TWO_PIECES.contents["big.bin"], (16 << 20) + 3)
    events = {event.blob: event for step in whole_pass(store.damage.scrubber()) for event in step.events}
    shared, big = events[blob_of(SMALL.contents[PATH])], events[blob_of(TWO_PIECES.contents["big.bin"])]
    assert len(events) == 2
    assert {one.artifact: one.paths for one in shared.affected} == {
        SMALL.artifact: (PATH,),
        SHARING.artifact: ("weights.bin",),
    }
    assert [(one.artifact, list(one.holds)) for one in shared.wanted] == [(SMALL.artifact, [tree.hold])]
    assert [known.ref for one in shared.affected for known in one.refs] == [SMALL.name, SHARING.name]
    assert (big.chunk_offset, big.at, big.wanted) == (16 << 20, clock[0], ())
    assert json.loads(json.dumps(shared.to_json()))["affected"][0]["holds"]
    assert store.state(SMALL.artifact) == "damaged"
    for event in (shared, big):
        (why,) = (store.root / "quarantine").glob(f"{hex_of(event.blob)}.*.why")
        assert why.read_text() == f"{event.why}, at byte {event.chunk_offset}\n"
    assert {one.artifact for one in store.damage.affected()} == {SMALL.artifact, SHARING.artifact, TWO_PIECES.artifact}
    steps = Steps()
    stage(store, SMALL, steps)
    stage(store, TWO_PIECES, steps)
    assert steps.fetched == [PATH, "big.bin"]
    assert store.damage.affected() == ()
    assert is_whole(store, SHARING)
    check_invariants(store.root, KNOWN)


@pytest.mark.parametrize("change", [b"", b"short"])
def test_a_blob_of_another_length_is_damaged(store: Store, change: bytes) -> None:
    path = blob_path(store, OTHER.contents["other.bin"])
    path.chmod(0o600)
    path.write_bytes(change)
    (event,) = [event for step in whole_pass(store.damage.scrubber()) for event in step.events]
    assert "20000" in event.why


def test_a_blob_that_is_evicted_while_it_is_read_is_no_damage_and_its_room_is_free_at_once(store: Store) -> None:
    scrubber = store.damage.scrubber()
    for model in (SMALL, SHARING, OTHER):
        store.evict(model.artifact)
    assert scrubber.step(CHUNK_BYTES).bytes == CHUNK_BYTES
    assert store.evict(TWO_PIECES.artifact) > 15 << 20  # of 16 and a little: others write to the disk meanwhile
    assert scrubber.step(1 << 30) == Step(is_idle=True)


def test_a_blob_that_came_anew_while_it_was_read_is_left_alone(store: Store) -> None:
    for model in (SMALL, SHARING, OTHER):
        store.evict(model.artifact)
    scrubber = store.damage.scrubber()
    scrubber.step(CHUNK_BYTES)
    keep = os.open(blob_path(store, TWO_PIECES.contents["big.bin"]), os.O_PATH)
    store.evict(TWO_PIECES.artifact)
    stage(store, TWO_PIECES)
    assert scrubber.step(1 << 30) == Step(is_idle=True)
    os.close(keep)
    assert is_whole(store, TWO_PIECES)


@pytest.mark.parametrize("raw", [None, b"{}"])
def test_a_lost_meta_is_made_again_from_the_bytes(store: Store, raw: bytes | None) -> None:
    for data in (TWO_PIECES.contents["big.bin"], OTHER.contents["other.bin"], b""):
        meta = blob_path(store, data).with_suffix(".meta")
        meta.unlink()
        if raw is not None:
            meta.write_bytes(raw)
    steps = whole_pass(store.damage.scrubber(), 1)
    assert not any(step.events for step in steps)
    assert all(store.state(model.artifact) == "staged" for model in ALL)
    check_invariants(store.root, KNOWN)


def test_a_lost_meta_of_damaged_bytes_is_damage(store: Store) -> None:
    damage(store, OTHER, "other.bin")
    blob_path(store, OTHER.contents["other.bin"]).with_suffix(".meta").unlink()
    (event,) = [event for step in whole_pass(store.damage.scrubber()) for event in step.events]
    assert event.blob == blob_of(OTHER.contents["other.bin"])


class Unreadable(chunks.ChunkFile):
    """A medium that has lost bytes, or a disk that is gone."""

    number = errno.EIO
    times = 1 << 30

    def from_disk(self, at: int) -> memoryview:
        if type(self).times > 0:
            type(self).times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return super().from_disk(at)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> type[Unreadable]:
    made = type("Once", (Unreadable,), {})
    monkeypatch.setattr(chunks, "ChunkFile", made)
    return made


def test_what_the_medium_has_lost_is_damage(store: Store, unreadable: type[Unreadable]) -> None:
    events = [event for step in whole_pass(store.damage.scrubber()) for event in step.events]
    assert len(events) == len({blob_of(data) for model in ALL for data in model.contents.values() if data})
    unreadable.times = 0
    for model in ALL:
        stage(store, model)
    check_invariants(store.root, KNOWN)


def test_another_failure_of_the_disk_is_said_and_condemns_nothing(store: Store, unreadable: type[Unreadable]) -> None:
    unreadable.number = errno.ENXIO
    scrubber = store.damage.scrubber()
    with pytest.raises(Unavailable):
        whole_pass(scrubber)
    unreadable.times = 0
    assert not any(step.events for step in whole_pass(scrubber))
    assert store.damage.affected() == ()


def test_a_chunk_that_reads_right_at_the_second_attempt_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flickers(chunks.ChunkFile):
        reads = 0

        def from_disk(self, at: int) -> memoryview:
            type(self).reads += 1
            view = super().from_disk(at)
            return memoryview(bytes(len(view))) if type(self).reads % 2 else view

    monkeypatch.setattr(chunks, "ChunkFile", Flickers)
    assert not any(step.events for step in whole_pass(store.damage.scrubber()))
    assert Flickers.reads > 8


def test_the_store_can_be_used_while_a_blob_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits(chunks.ChunkFile):
        """Each chunk is there only once another thread has done what takes the store's lock."""

        def from_disk(self, at: int) -> memoryview:
            other = threading.Thread(target=lambda: store.publish_view(SMALL.artifact))
            other.start()
            other.join(60)
            assert not other.is_alive(), "the scrubber holds the lock while it reads"
            return super().from_disk(at)

    monkeypatch.setattr(chunks, "ChunkFile", Waits)
    assert sum(step.bytes for step in whole_pass(store.damage.scrubber())) > 16 << 20
    assert store.damage.suspect(OTHER.artifact, "other.bin", 0).verdict is Verdict.SOUND


# -- what a reader says


def test_a_report_of_sound_bytes_changes_nothing(store: Store) -> None:
    for offset in (0, CHUNK_BYTES + 17, (16 << 20) + 4):
        assert store.damage.suspect(TWO_PIECES.artifact, "big.bin", offset).verdict is Verdict.SOUND
    assert store.damage.affected() == ()


def test_a_report_of_damage_is_looked_at_where_it_is_said_to_be(store: Store) -> None:
    damage_at(store, TWO_PIECES.contents["big.bin"], 5 << 20)
    assert store.damage.suspect(TWO_PIECES.artifact, "big.bin", 0).verdict is Verdict.SOUND
    found = store.damage.suspect(TWO_PIECES.artifact, "big.bin", (5 << 20) + 9)
    assert found.verdict is Verdict.DAMAGED
    assert found.event is not None
    assert found.event.chunk_offset == 4 << 20
    assert [one.paths for one in found.event.affected] == [("big.bin",)]
    assert store.damage.suspect(TWO_PIECES.artifact, "big.bin", (5 << 20) + 9).verdict is Verdict.GONE
    stage(store, TWO_PIECES)
    assert store.damage.suspect(TWO_PIECES.artifact, "big.bin", 5 << 20).verdict is Verdict.SOUND
    check_invariants(store.root, KNOWN)


def test_a_report_of_what_is_not_there_is_refused(store: Store) -> None:
    for offset in (-1, len(OTHER.contents["other.bin"])):
        with pytest.raises(Misconfigured, match="20000"):
            store.damage.suspect(OTHER.artifact, "other.bin", offset)
    with pytest.raises(NotFound, match="no file"):
        store.damage.suspect(OTHER.artifact, "none", 0)
    with pytest.raises(NotFound, match="stage it"):
        store.damage.suspect(Model({"x": b"x"}).artifact, "x", 0)
    with pytest.raises(Misconfigured):
        store.damage.suspect(SMALL.artifact, "empty", 0)


def test_a_report_heals_a_view_that_does_not_show_the_published_blob(store: Store) -> None:
    tree = store.path(OTHER.artifact)
    tree.chmod(0o755)
    (tree / "other.bin").unlink()
    (tree / "other.bin").write_bytes(b"something else")
    assert store.damage.suspect(OTHER.artifact, "other.bin", 0).verdict is Verdict.SOUND
    assert is_whole(store, OTHER)


def test_an_old_generation_keeps_what_it_verifies_against_and_goes_with_its_hold(store: Store) -> None:
    hold = store.hold(SMALL.artifact, kind="pin")
    damage(store, SMALL, PATH)
    whole_pass(store.damage.scrubber())
    fetch(store, SMALL, PATH)
    store.publish_view(SMALL.artifact)
    view = store.root / "views" / hex_of(SMALL.artifact)
    (old,) = view.glob(".old-*")
    kept, current = view / ".prestage" / old.name, view / ".prestage" / "current"
    for name in ("sums", "manifest.json"):
        assert (kept / name).read_bytes() == (current / name).read_bytes()
    assert (old / PATH).read_bytes() != SMALL.contents[PATH]
    store.drop_hold(SMALL.artifact, hold)
    assert not old.exists()
    assert not kept.exists()
    check_invariants(store.root, KNOWN)


_ROT = """
import errno, fcntl, mmap, os, struct, sys
from pathlib import Path
from prestage.cacher.digests import chunk_sum
from prestage.cacher.store.chunks import Verdict, examine, opened

image, path = Path(sys.argv[1]), Path(sys.argv[2])
data = os.urandom(1 << 20)
path.write_bytes(data)
fd = os.open(path, os.O_RDONLY)
os.fsync(fd)
request = struct.pack("=QQIIII", 0, 1 << 40, 1, 0, 1, 0) + bytes(56)
answer = fcntl.ioctl(fd, 0xC020660B, request)  # FS_IOC_FIEMAP
assert struct.unpack_from("=I", answer, 20)[0] >= 1, "no extent"
physical = struct.unpack_from("=Q", answer, 32 + 8)[0]
right = chunk_sum(data)

def on_the_medium(raw):
    with image.open("r+b") as backing:
        backing.seek(physical)
        backing.write(raw)
        os.fsync(backing.fileno())

def drop():
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

def look():
    with opened(path) as file:
        return examine(file, 0, right)

def rot_in_memory():
    '''The page cache holds wrong bytes, the disk the right ones.'''
    drop()
    on_the_medium(bytes(4096))
    assert os.pread(fd, 4096, 0) == bytes(4096)
    on_the_medium(data[:4096])
    assert os.pread(fd, 4096, 0) == bytes(4096), "the page cache was to keep the rot"

assert look() is Verdict.SOUND
rot_in_memory()
assert look() is Verdict.CURED
assert os.pread(fd, 4096, 0) == data[:4096]
rot_in_memory()
mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
assert mapped[:4096] == bytes(4096)
assert look() is Verdict.DAMAGED, "what is mapped cannot be dropped"
mapped.close()
assert look() is Verdict.CURED
os.pread(fd, 1 << 20, 0)
on_the_medium(bytes(4096))
assert os.pread(fd, 4096, 0) == data[:4096], "the page cache was to hide the rot"
assert look() is Verdict.DAMAGED
print("seen")
"""


def test_rot_in_the_page_cache_alone_is_cured_and_rot_behind_it_is_seen(tmp_path: Path) -> None:
    image, mount, script = tmp_path / "image", tmp_path / "mount", tmp_path / "rot.py"
    mount.mkdir()
    script.write_text(_ROT)
    done = in_a_mount_namespace(
        f"set -e; truncate -s 32M {image}; mkfs.ext4 -q {image} || exit 0; mount -o loop {image} {mount} || exit 0\n"
        f"{sys.executable} {script} {image} {mount}/file; umount {mount}"
    )
    if "seen" not in done.stdout:
        pytest.skip(f"no ext4 on a loop device here: {done.stderr.strip()}")
