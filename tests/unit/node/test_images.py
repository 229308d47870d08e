"""What the images container does with its plan, and what it says of itself."""

from __future__ import annotations

import asyncio
import datetime
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from prestage.api.nodes import (
    IMAGES_MAX,
    Action,
    EntryType,
    ErrorClass,
    NodeCacheSpec,
    NodeCacheStatus,
    PlannedArtifact,
    State,
    Step,
)
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Misconfigured
from prestage.images.containerd.setup import Setup
from prestage.images.room import Disk
from prestage.images.shelf import ShelfRow
from prestage.images.shelf import State as Shelved
from prestage.images.stager import StagedImage
from prestage.images.use import Use
from prestage.node.images.deciding import (
    LINGER_S,
    RETRY_PASSING_S,
    RETRY_S,
    TURN_MOST_S,
    Failed,
    ImagePlan,
    Release,
    Renew,
    Scene,
    Stage,
    Stop,
    decide,
    image_plan,
    is_pressed,
    unnamed,
)
from prestage.node.images.metrics import ImagesCollector, application, serve
from prestage.node.images.reporting import ImagesLook, Way, budget_of, news_of, status_of
from prestage.node.images.tally import Tally
from prestage.node.plan import plan_of

A, B, C = (ArtifactId("sha256:" + letter * 64) for letter in "abc")
NOW, LEASE_S = 1_000_000.0, 3600.0
WAITING, DECLARED = 850_000_000, 750_000_000
SETUP = Setup("2.1.9", "overlayfs", "overlayfs", ("overlayfs",), ("soci",), False, "/var/lib/containerd")


def planned(artifact: str, action: Action = Action.STAGE, priority: int = DECLARED) -> PlannedArtifact:
    return PlannedArtifact(digest=artifact, action=action, priority=priority, type=EntryType.IMAGE)


def plan(*entries: PlannedArtifact) -> ImagePlan:
    return ImagePlan({ArtifactId(one.digest): one for one in entries}, says_nothing=False)


def shelf(state: Shelved = "warm", *artifacts: ArtifactId, left_s: float = LEASE_S) -> dict[ArtifactId, ShelfRow]:
    return {one: ShelfRow(one, "r/app:1", state, 1000, NOW + left_s) for one in artifacts}


def deeds(given: ImagePlan, scene: Scene) -> list[object]:
    return list(decide(given, scene, lease_s=LEASE_S, now=NOW))


def test_models_and_images_of_one_nodecache_are_each_for_their_own_container() -> None:
    model = PlannedArtifact(digest=A, action=Action.STAGE)
    spec = NodeCacheSpec(node_uid="u", plan="p", artifacts=[model, planned(B)])
    assert list(image_plan(spec, generation=1, node_uid="u").entries) == [B]
    assert list(plan_of(spec, generation=1, node_uid="u").artifacts) == [A]
    assert image_plan(spec, generation=1, node_uid="another").says_nothing
    assert image_plan(NodeCacheSpec(node_uid="u"), generation=1, node_uid="u").says_nothing
    only_models = image_plan(NodeCacheSpec(node_uid="u", artifacts=[model]), generation=1, node_uid="u")
    assert not only_models.says_nothing, "images that it does not name may go"


def test_one_image_at_a_time_the_most_urgent_first() -> None:
    both = plan(planned(A), planned(B, priority=WAITING))
    assert deeds(both, Scene()) == [Stage(B)]
    assert deeds(both, Scene(running=B)) == []
    assert deeds(both, Scene(running=A)) == [Stop(A)]
    assert deeds(plan(planned(A), planned(B, priority=DECLARED + 1)), Scene(running=A)) == [], "of one class: no change of horses"
    assert deeds(both, Scene(shelf("warm", B), running=A)) == []
    assert deeds(plan(planned(B)), Scene(running=A)) == [Stop(A)]
    assert deeds(ImagePlan(), Scene(running=A)) == []


@pytest.mark.parametrize(("kind", "after_s"), [(ErrorClass.UNAVAILABLE, RETRY_PASSING_S), (ErrorClass.DENIED, RETRY_S)])
def test_what_failed_is_tried_again_later_or_once_the_plan_is_another(kind: ErrorClass, after_s: float) -> None:
    wanted = plan(planned(A), planned(B, priority=DECLARED - 1))
    failed = Scene(failed={A: Failed(kind, "Why", NOW - after_s + 1)})
    assert deeds(wanted, failed) == [Stage(B)], "others do not wait for it"
    assert deeds(wanted, replace(failed, failed={A: Failed(kind, "Why", NOW - after_s)})) == [Stage(A)]
    assert deeds(wanted, replace(failed, planned_at=NOW)) == [Stage(A)]


def test_what_fails_again_and_again_takes_another_ones_turn_ever_less_often() -> None:
    wanted = plan(planned(A), planned(B, priority=WAITING))

    def failed(ago_s: float, times: int) -> Scene:
        return Scene(running=A, failed={B: Failed(ErrorClass.UNAVAILABLE, "Why", NOW - ago_s, times)})

    assert deeds(wanted, failed(RETRY_PASSING_S, 1)) == [Stop(A)], "once may be nothing"
    assert [deeds(wanted, failed(ago_s, 3)) for ago_s in (15 * RETRY_PASSING_S, 16 * RETRY_PASSING_S)] == [[], [Stop(A)]]
    assert [deeds(wanted, failed(ago_s, 1000)) for ago_s in (TURN_MOST_S - 1, TURN_MOST_S)] == [[], [Stop(A)]]
    refused = failed(RETRY_PASSING_S, 3)
    assert deeds(wanted, replace(refused, running=None)) == [Stage(B)], "where nothing runs it is tried first"
    assert deeds(wanted, replace(refused, planned_at=NOW)) == [Stop(A)]
    assert deeds(plan(*wanted.entries.values(), planned(C, priority=WAITING)), refused) == [Stop(A)]


def test_leases_are_renewed_at_half_time_while_the_plan_names_the_image_or_says_nothing() -> None:
    half = shelf("warm", A, left_s=LEASE_S / 2 - 1)
    for said in (plan(planned(A)), plan(planned(A, Action.KEEP)), ImagePlan()):
        assert deeds(said, Scene(half)) == [Renew(A)]
        assert deeds(said, Scene(shelf("warm", A))) == []
    assert deeds(plan(planned(B, Action.KEEP)), Scene(half)) == [], "named no more: its lease is its end"


def test_what_is_released_goes_and_what_is_named_no_more_goes_after_a_while() -> None:
    here = Scene(shelf("warm", A))
    assert deeds(plan(planned(A, Action.RELEASE)), here) == [Release(A)]
    others = plan(planned(B, Action.KEEP))
    since = unnamed(others, here, NOW - LINGER_S)
    assert deeds(others, replace(here, unnamed_since=since)) == [Release(A)]
    assert deeds(others, replace(here, unnamed_since=unnamed(others, here, NOW - LINGER_S + 1))) == []
    assert unnamed(plan(planned(A)), replace(here, unnamed_since=since), NOW) == {}
    assert unnamed(ImagePlan(), replace(here, unnamed_since=since), NOW) == {}
    assert deeds(ImagePlan(), replace(here, unnamed_since=since)) == [], "no plan evicts nothing"


def test_above_the_mark_room_is_made_one_image_at_a_time_and_never_of_what_is_wanted() -> None:
    here = replace(Scene(shelf("warm", A, B, C)), is_pressed=True)
    kept = plan(planned(A), planned(B, Action.KEEP))
    assert deeds(kept, here) == [Release(C)], "named no more goes first, though its time is not over"
    assert deeds(kept, replace(here, shelf=shelf("warm", A, B))) == [Release(B)]
    assert deeds(kept, replace(here, shelf=shelf("warm", A))) == []
    assert deeds(ImagePlan(), replace(here, shelf=shelf("warm", A))) == [Release(A)], "without a plan too: pods come first"
    assert deeds(kept, replace(here, shelf=shelf("warm", B), running=B)) == [Stop(B)]
    pulled = replace(here, shelf=shelf("warm", A, B, C), pulled_at={C: NOW - RETRY_PASSING_S + 1})
    assert deeds(kept, pulled) == [Release(B)], "what is being pulled cannot go just now"
    assert deeds(kept, replace(pulled, pulled_at={C: NOW - RETRY_PASSING_S})) == [Release(C)]
    assert [is_pressed(Disk(1000, free), 0.8) for free in (200, 185, 170)] == [False, False, True]
    assert not is_pressed(None, 0.8)


_ACTIONS = st.dictionaries(st.sampled_from([A, B, C]), st.tuples(st.sampled_from(Action), st.integers(0, 10**9)))


@given(_ACTIONS, st.sets(st.sampled_from([A, B, C])), st.none() | st.sampled_from([A, B, C]), st.booleans())
def test_whatever_the_plan_nothing_wanted_is_released_and_one_stage_runs(
    actions: dict[ArtifactId, tuple[Action, int]], here: set[ArtifactId], running: ArtifactId | None, nothing: bool
) -> None:
    entries = {one: planned(one, action, priority) for one, (action, priority) in actions.items()}
    given = ImagePlan() if nothing else ImagePlan(entries, says_nothing=False)
    scene = Scene(shelf("warm", *here), running, unnamed_since={one: 0.0 for one in here if one not in given.entries})
    made = deeds(given, scene)
    assert sum(isinstance(one, Stage) for one in made) <= (running is None)
    for one in made:
        if isinstance(one, Release):
            assert not given.says_nothing
            assert one.artifact != running
            assert one.artifact not in entries or entries[one.artifact].action is Action.RELEASE
        if isinstance(one, Stage):
            assert one.artifact not in here


def look(scene: Scene, way: Way | None = None) -> ImagesLook:
    return ImagesLook(SETUP, scene, way, Disk(1000 << 20, 500 << 20), rates=(5.0, 3.0))


@dataclass
class Observed:
    """An images container that stands still."""

    plan: ImagePlan
    now: ImagesLook
    tally: Tally = field(default_factory=Tally)

    def look(self) -> ImagesLook:
        return self.now

    def status(self) -> NodeCacheStatus:
        return status_of(self.plan, self.now, datetime.datetime.now(datetime.UTC))


def shown(observed: Observed) -> dict[str, float]:
    """What Prometheus reads, by name and labels."""
    samples = [sample for metric in ImagesCollector(observed).collect() for sample in metric.samples]
    return {" ".join((one.name, *one.labels.values())): one.value for one in samples}


def test_metrics_say_what_is_here_and_what_was_done_and_name_no_image() -> None:
    moved = replace(shelf("warm", A)[A], use=Use.MOVED, wasted_bytes=400)
    scene = Scene({A: moved} | shelf("staging", B), B, {C: Failed(ErrorClass.DENIED, "PasswordsOnly", NOW)})
    observed = Observed(plan(planned(A), planned(B), planned(C)), look(scene, Way("unpack", 700, 300, 1000)))
    observed.tally.staged(StagedImage(A, "r/app:1", "prestage-1", 3, 1000, 900, 1.0, 2))
    observed.tally.failed("denied")
    said = shown(observed)
    expected = {
        "prestage_images Warm": 1,
        "prestage_images Staging": 1,
        "prestage_images Failed": 1,
        "prestage_images_bytes used": 1000,
        "prestage_images_bytes wasted": 400,
        "prestage_images_disk_bytes free": 500 << 20,
        "prestage_image_staging_bytes fetched": 700,
        "prestage_image_staging_bytes unpacked": 300,
        "prestage_image_stages_ended_total done": 1,
        "prestage_image_stages_ended_total denied": 1,
        "prestage_images_fetched_bytes_total": 900,
        "prestage_images_yielded_total": 2,
        "prestage_images_runtime 2.1.9 overlayfs": 1,
    }
    assert {name: said.get(name) for name in expected} == expected
    text = "".join(said)
    assert "sha256" not in text
    assert "r/app" not in text


def test_metrics_and_health_are_served_and_an_address_that_is_taken_is_refused_by_its_name() -> None:
    observed = Observed(plan(planned(A)), look(Scene(shelf("warm", A))))

    async def test() -> None:
        async with TestClient(TestServer(application(observed))) as client:
            assert (await client.get("/healthz")).status == 200
            assert 'prestage_images{state="Warm"} 1.0' in await (await client.get("/metrics")).text()
            assert client.port is not None
            async with AsyncExitStack() as stack:
                with pytest.raises(Misconfigured, match=str(client.port)):
                    await serve(stack, observed, ("127.0.0.1", client.port))

    asyncio.run(test())


def test_what_is_gone_was_wasted_if_nobody_had_used_it() -> None:
    tally, row = Tally(), shelf("warm", A)[A]
    for one in (
        row,
        replace(row, use=Use.USED),
        replace(row, use=Use.MOVED, wasted_bytes=300),
        replace(row, state="staging"),
        None,
    ):
        tally.let_go(one)
    assert tally.released == 5
    assert tally.wasted_bytes == {Use.UNUSED: 1000, Use.MOVED: 300}


def test_an_image_whose_tag_has_moved_says_what_was_for_nothing_and_that_is_news() -> None:
    wanted, here = plan(planned(A)), shelf("warm", A)
    now = datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)
    before = status_of(wanted, look(Scene(here)), now)
    after = status_of(wanted, look(Scene({A: replace(here[A], use=Use.MOVED, wasted_bytes=400)})), now)
    assert [one.wasted for one in before.artifacts or ()] == [None]
    assert [one.wasted for one in after.artifacts or ()] == [400]
    assert before.images is not None
    assert after.images is not None
    assert (before.images.wasted, after.images.wasted) == (None, 400)
    assert news_of(before) != news_of(after)


def test_each_image_is_told_as_it_stands_and_nothing_of_its_registry() -> None:
    scene = Scene(shelf("warm", A) | shelf("staging", B), B, {C: Failed(ErrorClass.DENIED, "PasswordsOnly", NOW)})
    wanted = plan(planned(A), planned(B), planned(C))
    now = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)
    status = status_of(wanted, look(scene, Way("unpack", 700)), now)
    entries = {one.digest: one for one in status.artifacts or ()}
    assert {one.type for one in entries.values()} == {EntryType.IMAGE}
    assert entries[A].state is State.WARM
    assert (entries[B].state, entries[B].step, entries[B].fetched) == (State.STAGING, Step.UNPACK, 700)
    assert (entries[C].state, entries[C].error_class, entries[C].error_code) == (
        State.FAILED,
        ErrorClass.DENIED,
        "PasswordsOnly",
    )
    assert status.images is not None
    assert (status.images.runtime, status.images.snapshotter, status.images.remote_snapshotters) == (
        "2.1.9",
        "overlayfs",
        ["soci"],
    )
    assert (status.images.used, status.images.rate_p10) == (1000, 3)
    assert b"r/app" not in msgspec.json.encode(status)
    released = status_of(plan(planned(A, Action.RELEASE), planned(C, Action.RELEASE)), look(Scene(shelf("warm", A))), now)
    assert [(one.digest, one.state) for one in released.artifacts or ()] == [(A, State.RELEASING)]
    later = status_of(wanted, look(scene, Way("unpack", 900)), now + datetime.timedelta(seconds=5))
    assert news_of(later) == news_of(status)
    assert news_of(status_of(wanted, look(replace(scene, running=None)), now)) != news_of(status)


def test_no_more_is_told_than_leaves_room_for_models() -> None:
    many = [ArtifactId(f"sha256:{number:064x}") for number in range(IMAGES_MAX + 5)]
    status = status_of(plan(*map(planned, many)), look(Scene()), datetime.datetime.now(datetime.UTC))
    assert len(status.artifacts or ()) == IMAGES_MAX
    assert len(msgspec.json.encode(status)) < 32 << 10


@pytest.mark.parametrize("setup", [replace(SETUP, snapshotter="soci", pulls_use="soci"), replace(SETUP, pulls_use="soci")])
def test_a_node_whose_pulls_another_daemon_serves_has_no_room_for_images(setup: Setup) -> None:
    seen = replace(look(Scene()), disk=Disk(1000, 900))
    told = [status_of(plan(), one, datetime.datetime.now(datetime.UTC)).images for one in (seen, replace(seen, setup=setup))]
    assert [one is not None and one.budget is not None for one in told] == [True, False]


def test_the_budget_is_what_fits_below_the_mark_and_does_not_twitch() -> None:
    disk = Disk(1000, 500)
    assert budget_of(disk, 0, high_water=0.8, drop_blobs=True) == 120  # 300 of them, unpacked 2.5 times
    assert budget_of(disk, 100, high_water=0.8, drop_blobs=False) == 100 + 85
    assert budget_of(Disk(1000, 100), 70, high_water=0.8, drop_blobs=False) == 70, "full: what is here may stay"
    assert budget_of(Disk(1000, 499), 0, high_water=0.8, drop_blobs=True) == budget_of(
        Disk(1000, 496), 0, high_water=0.8, drop_blobs=True
    )
