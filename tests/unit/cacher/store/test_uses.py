"""Which artifacts need which blobs: what is remembered of it is what the bindings on disk say, whatever happened meanwhile."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores.making import Model, content, fetch, stage

from prestage.cacher.digests import ArtifactId, BlobId, hex_of
from prestage.cacher.store.artifacts import Artifacts
from prestage.cacher.store.store import Store

FILES = {name: content(100, name) for name in "abcdef"}


def model(number: int, *names: str) -> Model:
    contents = {f"{name}.bin": FILES[name] for name in names}
    return Model(
        {**contents, "config.json": f"{number}".encode()}, f"hf://org/m{number}@main", f"hf:https://hub.test/org/m{number}"
    )


MODELS = (model(0, "a", "b"), model(1, "b", "c"), model(2, "c", "d", "e"), model(3, "a", "e"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", own=True) as opened:
        yield opened


def blobs_on_disk(store: Store) -> set[str]:
    return {path.name for path in (store.root / "blobs").glob("*/*") if not path.name.endswith(".meta")}


def named_on_disk(store: Store) -> set[str]:
    bindings = (json.loads(path.read_bytes()) for path in (store.root / "manifests").glob("*.binding"))
    return {hex_of(blob) for binding in bindings for blob in binding["files"].values()}


def done(store: Store, act: str, wanted: Model) -> Store:
    """The store, after that."""
    if act == "stage":
        stage(store, wanted)
    elif act == "begin":
        store.put_manifest(wanted.manifest)
        for file in store.missing(wanted.artifact)[:1]:
            fetch(store, wanted, file.path)
    elif act == "evict" and any(row.artifact == wanted.artifact for row in store.list()):
        store.evict(wanted.artifact)
    elif act == "open":
        store.close()
        return Store.open(store.root, own=True)
    return store


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(("stage", "begin", "evict", "open")), st.sampled_from(MODELS)), max_size=12))
def test_after_any_history_the_blobs_on_disk_are_those_that_are_named(fast_path: Path, history: list[tuple[str, Model]]) -> None:
    root = Path(tempfile.mkdtemp(dir=fast_path)) / "store"
    store = Store.open(root, own=True)
    try:
        for act, wanted in history:
            store = done(store, act, wanted)
            is_settled = all(row.state == "staged" for row in store.list())  # a file of another may still turn out to be any
            assert blobs_on_disk(store) >= named_on_disk(store)
            assert blobs_on_disk(store) == named_on_disk(store) or not is_settled
    finally:
        store.close()


def test_an_evict_reads_no_binding_but_that_of_its_artifact_once_they_are_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        stage(store, model(number, "a"))
    store.evict(model(0, "a").artifact)
    read, real = list[ArtifactId](), Artifacts.binding

    def spied(self: Artifacts, artifact: ArtifactId) -> dict[str, BlobId]:
        read.append(artifact)
        return real(self, artifact)

    monkeypatch.setattr(Artifacts, "binding", spied)
    gone = model(1, "a").artifact
    store.evict(gone)
    monkeypatch.undo()
    assert not set(read) & {row.artifact for row in store.list()}
    assert (store.path(model(2, "a").artifact) / "a.bin").read_bytes() == FILES["a"]


def test_a_binding_that_rots_keeps_what_it_named(store: Store) -> None:
    for wanted in MODELS[:2]:
        stage(store, wanted)
    stage(store, MODELS[3])
    store.evict(MODELS[3].artifact)  # now the others are known
    (store.root / "manifests" / f"{hex_of(MODELS[1].artifact)}.binding").write_bytes(b"rotten")
    store.evict(MODELS[0].artifact)
    stage(store, MODELS[1])
    assert (store.path(MODELS[1].artifact) / "b.bin").read_bytes() == FILES["b"]


def test_nothing_is_remembered_of_what_is_gone(store: Store) -> None:
    """A node stages and evicts for years."""
    for wanted in MODELS:
        stage(store, wanted)
    for wanted in MODELS:
        store.evict(wanted.artifact)
    uses = store._parts.uses
    assert (uses._bound, uses._users, uses._unread) == ({}, {}, {MODELS[-1].artifact})
    assert not uses.shared(MODELS[0].artifact, [])
    assert uses._unread == set()
