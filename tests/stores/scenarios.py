"""Operations of a store that crashes are tried in: what is there before, what is done, what must be true after any crash.

`act` reports through `Steps.ack` what the store said was done. Each check is given the acks that got out before the crash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from bringing import archive_of, descriptor_of

from prestage.cacher.archives.importing import import_archive
from prestage.cacher.digests import hex_of, piece_count
from prestage.cacher.errors import Busy
from prestage.cacher.store.composing import Part
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms
from stores import wishes
from stores.making import Model, Patterns, Steps, blob_of, content, fetch, fill, ingesting, stage, stage_together

SMALL = Model({"config.json": b'{"a": 1}', "sub/dir/weights.bin": content(9001, "w"), "empty": b""})
SHARING = Model(
    {"config.json": b'{"a": 22}', "weights.bin": SMALL.contents["sub/dir/weights.bin"]}, "hf://org/name@two", version="2"
)
OTHER = Model({"other.bin": content(20_000, "o")}, "hf://org/other@main", "hf:https://hub.test/org/other")
TWO_PIECES = Model({"big.bin": content((16 << 20) + 5, "big")}, "s3://bucket/big.bin", "s3:bucket", states_sha256=False)
TWINS = Model(
    {"a.json": b"{}", "b.json": b"{}", "c.bin": content(5000, "c"), "d.bin": SMALL.contents["sub/dir/weights.bin"]},
    "hf://o/t@main",
    "hf:https://hub.test/o/t",
)
"""Two files are the same, one is in SMALL too."""
MODELS = (SMALL, SHARING, OTHER, TWO_PIECES, TWINS)
KNOWN: Mapping[str, Mapping[str, bytes]] = {model.artifact: model.contents for model in MODELS}

Acks = Collection[str]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One operation."""

    name: str
    prepare: Callable[[Store], None]
    act: Callable[[Store, Steps], None]
    check: Callable[[Store, Acks], None]
    """On the store as it is opened after the crash."""
    budget_bytes: int | None = None
    damaged: Collection[str] = ()
    """Artifacts whose view may link to bytes in quarantine."""
    rotten: Collection[str] = ()
    """Blobs that `prepare` damaged."""

    def __str__(self) -> str:
        return self.name


def _nothing(store: Store) -> None:
    assert store.list() == []


def staged(*models: Model) -> Callable[[Store], None]:
    def prepare(store: Store) -> None:
        for model in models:
            stage(store, model)

    return prepare


def is_whole(store: Store, model: Model) -> bool:
    """It can be used, and gives the right bytes."""
    tree = store.path(model.artifact)
    return all((tree / path).read_bytes() == data for path, data in model.contents.items())


def _check_stage(store: Store, acks: Acks) -> None:
    """Nothing acknowledged is lost, and running it again ends well without fetching twice."""
    model = SMALL
    for ack in acks:
        if ack.startswith("blob "):
            assert (store.root / "blobs" / hex_of(ack[5:])[:2] / hex_of(ack[5:])).exists(), f"{ack} was lost"
    if acks:
        assert store.manifest(model.artifact) == model.manifest
    bound = {ack.removeprefix("bound ") for ack in acks if ack.startswith("bound ")}
    assert bound <= store.binding(model.artifact).keys()
    if "view" in acks:
        assert is_whole(store, model)
    if "ref" in acks:
        assert store.lookup(model.name) == model.artifact
    again = Steps()
    stage(store, model, again)
    had = {ack.split()[1] for ack in acks if ack.startswith("piece ")}
    assert not had & set(again.fetched), "fetched again what was journaled"
    assert is_whole(store, model)


def _staged_before(store: Store) -> None:
    """One of them is a blob already, two are the same."""
    stage(store, SMALL)


def _check_together(store: Store, acks: Acks) -> None:
    for ack in acks:
        if ack.startswith("blob "):
            assert (store.root / "blobs" / hex_of(ack[5:])[:2] / hex_of(ack[5:])).exists(), f"{ack} was lost"
    assert {ack.removeprefix("bound ") for ack in acks if ack.startswith("bound ")} <= store.binding(TWINS.artifact).keys()
    if "view" in acks:
        assert is_whole(store, TWINS)
    assert not list((store.root / "ingest").iterdir()), "nothing of a little file outlives a crash"
    stage_together(store, TWINS, Steps())
    assert is_whole(store, TWINS)


def _prepare_two_pieces(store: Store) -> None:
    store.put_manifest(TWO_PIECES.manifest)
    with ingesting(store, TWO_PIECES, "big.bin"):
        assert True


def _act_journal(store: Store, steps: Steps) -> None:
    with ingesting(store, TWO_PIECES, "big.bin") as ingest:
        fill(ingest, TWO_PIECES.contents["big.bin"], on_piece=lambda piece: steps.ack(f"piece {piece}"))


def _check_journal(store: Store, acks: Acks) -> None:
    with ingesting(store, TWO_PIECES, "big.bin") as ingest:
        assert {f"piece {piece}" for piece in ingest.journaled()} >= set(acks), "a journaled piece was lost"


def _prepare_journaled(store: Store) -> None:
    store.put_manifest(SMALL.manifest)
    path = "sub/dir/weights.bin"
    with ingesting(store, SMALL, path) as ingest:
        fill(ingest, SMALL.contents[path])


def _act_finish(store: Store, steps: Steps) -> None:
    with ingesting(store, SMALL, "sub/dir/weights.bin") as ingest:
        steps.ack(f"blob {ingest.finish()}")


def _check_finish(store: Store, acks: Acks) -> None:
    """The blob is there, or every piece of it still is: never fetched again."""
    data = SMALL.contents["sub/dir/weights.bin"]
    name = hex_of(blob_of(data))
    if not (store.root / "blobs" / name[:2] / name).exists():
        assert not acks
        with ingesting(store, SMALL, "sub/dir/weights.bin") as ingest:
            assert len(ingest.journaled()) == piece_count(len(data))
    else:
        again = Steps()
        stage(store, SMALL, again)
        assert "sub/dir/weights.bin" not in again.fetched


def _prepare_bound(store: Store) -> None:
    store.put_manifest(SMALL.manifest)
    for path in SMALL.contents:
        fetch(store, SMALL, path)


def act_publish(store: Store, steps: Steps) -> None:
    store.publish_view(SMALL.artifact)
    steps.ack("view")


def _check_publish(store: Store, acks: Acks) -> None:
    assert store.state(SMALL.artifact) == "staged" if acks else store.state(SMALL.artifact) in ("partial", "staged")
    store.publish_view(SMALL.artifact)
    assert is_whole(store, SMALL)


def damage(store: Store, model: Model, path: str) -> None:
    """Change a byte of a published file behind the store's back."""
    target = store.root / "blobs" / hex_of(blob_of(model.contents[path]))[:2] / hex_of(blob_of(model.contents[path]))
    mode = target.stat().st_mode
    target.chmod(0o600)
    with target.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    target.chmod(mode)


def _prepare_damaged(store: Store) -> None:
    stage(store, SMALL)
    stage(store, SHARING)
    damage(store, SMALL, "sub/dir/weights.bin")


def _act_verify(store: Store, steps: Steps) -> None:
    assert store.verify().quarantined
    steps.ack("quarantined")


def _check_verify(store: Store, acks: Acks) -> None:
    if acks:
        assert store.state(SMALL.artifact) == "damaged"
    store.verify()
    assert {store.state(model.artifact) for model in (SMALL, SHARING)} == {"damaged"}
    stage(store, SMALL)
    assert is_whole(store, SMALL)
    assert is_whole(store, SHARING), "a view that shared the damaged blob was not healed"
    assert store.verify().bad == []


def _act_scrub(store: Store, steps: Steps) -> None:
    scrubber, events = store.damage.scrubber(), 0
    while not (step := scrubber.step(1)).is_idle:
        events += len(step.events)
    assert events + len(step.events) == 1
    steps.ack("quarantined")


def _prepare_healable(store: Store) -> None:
    _prepare_damaged(store)
    store.verify()
    fetch(store, SMALL, "sub/dir/weights.bin")


def check_heal(store: Store, acks: Acks) -> None:
    assert (store.root / "views" / hex_of(SMALL.artifact) / "current").is_dir(), "a heal took the view away"
    if acks:
        assert is_whole(store, SMALL)
        assert is_whole(store, SHARING)
    for model in (SMALL, SHARING):
        stage(store, model)
        assert is_whole(store, model)


def _act_evict(store: Store, steps: Steps) -> None:
    store.evict(SMALL.artifact)
    steps.ack("evicted")


def check_evict(store: Store, acks: Acks) -> None:
    """All of it is there, or nothing; what shares a blob with it is untouched."""
    assert is_whole(store, SHARING)
    listed = {row.artifact: row.state for row in store.list()}
    if acks:
        assert SMALL.artifact not in listed
    if SMALL.artifact in listed:
        assert is_whole(store, SMALL)
    else:
        only = hex_of(blob_of(SMALL.contents["config.json"]))
        assert not (store.root / "blobs" / only[:2] / only).exists()
    stage(store, SMALL)
    assert is_whole(store, SMALL)


def _act_stage_anew(store: Store, steps: Steps) -> None:
    """The evict that was done before is not to be done once more to what came after it."""
    store.evict(SMALL.artifact)
    stage(store, SMALL, steps)


def _act_hold(store: Store, steps: Steps) -> None:
    store.hold(SMALL.artifact, kind="pin", note="crash")
    steps.ack("held")


def _check_hold(store: Store, acks: Acks) -> None:
    assert is_whole(store, SMALL)
    if acks:
        assert [hold["kind"] for row in store.list() for hold in row.holds] == ["pin"]
        try:
            store.evict(SMALL.artifact)
        except Busy:
            return
        raise AssertionError("a held artifact was evicted")


def _prepare_pinned(store: Store) -> None:
    stage(store, SMALL)
    store.hold(SMALL.artifact, kind="pin")


def _act_unpin(store: Store, steps: Steps) -> None:
    assert store.unpin(SMALL.artifact) == 1
    steps.ack("unpinned")


def _check_unpin(store: Store, acks: Acks) -> None:
    assert is_whole(store, SMALL)
    if acks:
        assert all(not row.holds for row in store.list())


def _act_record_ref(store: Store, steps: Steps) -> None:
    store.record_ref(SMALL.name, Patterns(), SHARING.artifact)
    steps.ack("ref")


def _check_record_ref(store: Store, acks: Acks) -> None:
    assert store.lookup(SMALL.name) in ([SHARING.artifact] if acks else [SMALL.artifact, SHARING.artifact])


def _prepare_pressure(store: Store) -> None:
    stage(store, OTHER)
    stage(store, SMALL)
    store.hold(SMALL.artifact, kind="pin")
    os.utime(store.root / "views" / hex_of(OTHER.artifact), (1.0, 1.0))


def _act_pressure(store: Store, steps: Steps) -> None:
    """Room for it is there only once OTHER is gone; SMALL is held."""
    stage(store, SHARING, Steps(lambda ack: steps.ack(f"sharing {ack}")))


def _check_pressure(store: Store, acks: Acks) -> None:
    assert is_whole(store, SMALL), "a held artifact was evicted"
    listed = {row.artifact: row.state for row in store.list()}
    if OTHER.artifact in listed:
        assert not any(ack.startswith("sharing piece") for ack in acks), "fetched before there was room"
        assert is_whole(store, OTHER)
    usage = store.room.usage()
    assert usage.used + usage.reserved <= usage.limit


PARTS = (Part("one", SMALL.artifact, "org/name", "feature/one"), Part("two", SHARING.artifact))
"""A revision of a repository, and something that is none and shares a blob with it."""


def _act_compose(store: Store, steps: Steps) -> None:
    tree = store.compose(PARTS, Terms("pin", note="crash"))
    steps.ack(f"tree {tree.hold}")


def _check_compose(store: Store, acks: Acks) -> None:
    """The oracle looks at what is in it."""
    trees = {f"tree {tree.hold}" for tree in store.trees()}
    assert trees >= set(acks), "a tree was lost"
    held = {str(hold["id"]) for row in store.list() for hold in row.holds}
    assert held == {tree.hold for tree in store.trees()}, "a hold without its tree"
    assert all(tree.parts == PARTS for tree in store.trees())
    for model in (SMALL, SHARING):
        assert is_whole(store, model)
        if trees:
            assert is_held(store, model)
    store.compose(PARTS, Terms("pin"))


def is_held(store: Store, model: Model) -> bool:
    try:
        store.evict(model.artifact)
    except Busy:
        return True
    return False


def _prepare_composed(store: Store) -> None:
    staged(SMALL, SHARING)(store)
    store.compose(PARTS, Terms("pin"))


def _act_drop_tree(store: Store, steps: Steps) -> None:
    (tree,) = store.trees()
    store.drop_tree(tree.hold)
    steps.ack("dropped")


def _check_drop_tree(store: Store, acks: Acks) -> None:
    held = [row.holds for row in store.list()]
    if acks:
        assert not store.trees()
    assert all(held) if store.trees() else not any(held)
    for tree in store.trees():
        store.drop_tree(tree.hold)
    store.evict(SMALL.artifact)


def _prepare_healable_tree(store: Store) -> None:
    _prepare_composed(store)
    damage(store, SMALL, "sub/dir/weights.bin")
    store.verify()
    fetch(store, SMALL, "sub/dir/weights.bin")


def _check_heal_tree(store: Store, acks: Acks) -> None:
    """Whatever was healed before the cut, no file was ever missing, and the next start heals the rest: the oracle looks."""
    (tree,) = store.trees()
    data = SMALL.contents["sub/dir/weights.bin"]
    assert (tree.path / "one" / "sub/dir/weights.bin").read_bytes() == data
    assert (tree.path / "two" / "weights.bin").read_bytes() == data
    check_heal(store, acks)


def _act_evict_after_tree(store: Store, steps: Steps) -> None:
    """Its tree is still there when its hold has ended."""
    store.compose([Part("one", SMALL.artifact)], Terms("ttl", expires_at=1.0))
    store.evict(SMALL.artifact)
    steps.ack("evicted")


def _check_evict_after_tree(store: Store, acks: Acks) -> None:
    assert not store.trees()
    check_evict(store, acks)


def _check_create(store: Store, acks: Acks) -> None:
    stage(store, SMALL)
    assert is_whole(store, SMALL)
    assert json.loads((store.root / "format").read_bytes())["layout"] == 1


def _act_import(store: Store, steps: Steps) -> None:
    with descriptor_of(archive_of(SMALL.contents, SMALL.manifest, SMALL.name)) as fd:
        import_archive(store, fd)
    steps.ack("imported")


def _check_import(store: Store, acks: Acks) -> None:
    """What was said to be here is; it is all there or not usable; importing again ends well."""
    states = {row.artifact: row.state for row in store.list()}
    if acks:
        assert states == {SMALL.artifact: "staged"}
        assert store.lookup(SMALL.name) == SMALL.artifact
    if states.get(SMALL.artifact) == "staged":
        assert is_whole(store, SMALL)
    _act_import(store, Steps())
    assert is_whole(store, SMALL)


PRESSURE_BYTES = 3 * 4096 + 20_480 + 4096
"""SMALL takes two files of 4096 and 12288 bytes on disk, OTHER 20480; SHARING needs 4096 beside what it shares with SMALL."""

SCENARIOS = (
    Scenario("stage", _nothing, lambda store, steps: stage(store, SMALL, steps), _check_stage),
    Scenario("journal", _prepare_two_pieces, _act_journal, _check_journal),
    Scenario("publish a blob", _prepare_journaled, _act_finish, _check_finish),
    Scenario("publish a view", _prepare_bound, act_publish, _check_publish),
    Scenario(
        "quarantine",
        _prepare_damaged,
        _act_verify,
        _check_verify,
        damaged=(SMALL.artifact, SHARING.artifact),
        rotten=(blob_of(SMALL.contents["sub/dir/weights.bin"]),),
    ),
    Scenario(
        "scrub",
        _prepare_damaged,
        _act_scrub,
        _check_verify,
        damaged=(SMALL.artifact, SHARING.artifact),
        rotten=(blob_of(SMALL.contents["sub/dir/weights.bin"]),),
    ),
    Scenario("heal", _prepare_healable, act_publish, check_heal, damaged=(SMALL.artifact, SHARING.artifact)),
    Scenario("evict", staged(SMALL, SHARING), _act_evict, check_evict),
    Scenario("stage what was evicted", staged(SMALL), _act_stage_anew, _check_stage),
    Scenario("hold", staged(SMALL), _act_hold, _check_hold),
    Scenario("unpin", _prepare_pinned, _act_unpin, _check_unpin),
    Scenario("compose", staged(SMALL, SHARING), _act_compose, _check_compose),
    Scenario("drop a tree", _prepare_composed, _act_drop_tree, _check_drop_tree),
    Scenario("heal a tree", _prepare_healable_tree, act_publish, _check_heal_tree, damaged=(SMALL.artifact, SHARING.artifact)),
    Scenario("evict what a dead tree shows", staged(SMALL, SHARING), _act_evict_after_tree, _check_evict_after_tree),
    Scenario("record a ref", staged(SMALL, SHARING), _act_record_ref, _check_record_ref),
    Scenario("import", _nothing, _act_import, _check_import),
    Scenario("keep a wish", _nothing, wishes.act_keep_wish, wishes.check_keep_wish),
    Scenario("drop a wish", wishes.prepare_wish, wishes.act_drop_wish, wishes.check_drop_wish),
    Scenario("pause", _nothing, wishes.act_pause, wishes.check_pause),
    Scenario("resume", wishes.prepare_pause, wishes.act_resume, wishes.check_resume),
    Scenario("make room", _prepare_pressure, _act_pressure, _check_pressure, budget_bytes=PRESSURE_BYTES),
)
LITTLE = Scenario(
    "publish little files", _staged_before, lambda store, steps: stage_together(store, TWINS, steps), _check_together
)
"""Of which nothing is durable before they are published."""
CREATE = Scenario("create", _nothing, lambda store, steps: steps.ack("created"), _check_create)
