"""From its manifest to its refs a stage may count on what it has found and brought, and leaves nothing claimed behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stores.making import Model, content, fetch, fill, ingesting, stage
from stores.scenarios import is_whole

from prestage.cacher.errors import Busy, NotFound
from prestage.cacher.store.store import Store

BLOCKS = 100 << 10
SHARED = content(BLOCKS, "shared")
ORIGIN = "s3:bucket"
FIRST, SECOND, THIRD = (Model({f"{name}.bin": SHARED}, f"s3://bucket/{name}/", ORIGIN) for name in ("one", "two", "three"))
PAIR = Model({"a.bin": content(BLOCKS, "a"), "b.bin": content(BLOCKS, "b")}, "s3://bucket/pair/", ORIGIN)
OTHER = Model({"other.bin": content(2 * BLOCKS, "other")}, "s3://bucket/other/", ORIGIN)


@pytest.fixture
def store(fast_path: Path) -> Iterator[Store]:
    with Store.open(fast_path / "store", own=True, budget_bytes=2 * BLOCKS, margin_bytes=0) as store:
        yield store


def test_it_is_not_evicted_between_any_two_of_its_steps(store: Store) -> None:
    with store.room.staging(FIRST.artifact):
        store.put_manifest(FIRST.manifest)
        with pytest.raises(Busy, match="staged"):
            store.evict(FIRST.artifact)
        with store.reserve(BLOCKS, artifact=FIRST.artifact):
            fetch(store, FIRST, "one.bin")
        with pytest.raises(Busy, match="staged"):
            store.evict(FIRST.artifact)
        store.publish_view(FIRST.artifact)
    assert is_whole(store, FIRST)
    store.evict(FIRST.artifact)


def test_it_is_not_let_go_of_to_make_room_for_another(store: Store) -> None:
    with store.room.staging(FIRST.artifact):
        stage(store, FIRST)
        stage(store, Model({"c.bin": content(BLOCKS, "c")}, "s3://bucket/c/", ORIGIN))
        stage(store, Model({"d.bin": content(BLOCKS, "d")}, "s3://bucket/d/", ORIGIN))
        assert is_whole(store, FIRST)


def test_what_a_failed_stage_had_published_is_not_kept_for_ever(store: Store) -> None:
    def half(model: Model) -> None:
        with store.room.staging(model.artifact):
            store.put_manifest(model.manifest)
            with store.reserve(model.size_bytes, artifact=model.artifact):
                with ingesting(store, model, "a.bin") as ingest:
                    fill(ingest, model.contents["a.bin"])
                    ingest.finish()
                raise OSError("the other file does not come")

    with pytest.raises(OSError, match="other file"):
        half(PAIR)
    stage(store, OTHER)
    assert store.room.usage().used == 2 * BLOCKS
    assert is_whole(store, OTHER)


def test_what_two_have_claimed_stays_until_both_have_bound_it(store: Store) -> None:
    stage(store, FIRST)
    with store.room.staging(SECOND.artifact):
        store.put_manifest(SECOND.manifest)
        blob = store.reusable(SECOND.manifest, SECOND.manifest.files[0])
        assert blob is not None
        with store.room.staging(THIRD.artifact):
            store.put_manifest(THIRD.manifest)
            assert store.reusable(THIRD.manifest, THIRD.manifest.files[0]) == blob
            store.bind(THIRD.artifact, {"three.bin": blob})
        for model in (THIRD, FIRST):
            store.evict(model.artifact)
        store.bind(SECOND.artifact, {"two.bin": blob})
        store.publish_view(SECOND.artifact)
    assert is_whole(store, SECOND)


def test_who_gives_up_what_nobody_else_stages_leaves_nothing_of_it(store: Store) -> None:
    with store.room.staging(FIRST.artifact):
        store.put_manifest(FIRST.manifest)
        with store.room.staging(FIRST.artifact):
            store.room.give_up(FIRST.artifact)
            assert store.manifest(FIRST.artifact) == FIRST.manifest
        store.room.give_up(FIRST.artifact)
        with pytest.raises(NotFound):
            store.manifest(FIRST.artifact)
