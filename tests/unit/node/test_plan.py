"""What a NodeCache means to a node: what is staged, what goes first, what never goes."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from prestage.api.nodes import Action, NodeCacheSpec, PlannedArtifact
from prestage.cacher.digests import ArtifactId
from prestage.cacher.store.budget import Candidate, Kind
from prestage.cacher.transfer.limits import Priority
from prestage.node.plan import EvictionOrder, Plan, plan_of, priority_of
from prestage.node.reconcile import Action as Step
from prestage.node.reconcile import Begin, SeenStage, TakeBack, decide

NAMES = [ArtifactId(f"sha256:{digit * 64}") for digit in "0123456789"]


def plan(**actions: tuple[str, Action, int]) -> Plan:
    return Plan({ArtifactId(digest): PlannedArtifact(digest=digest, action=action, priority=priority)
                 for digest, action, priority in actions.values()})  # fmt: skip


def candidate(name: str, used: float = 0.0, kind: Kind = Kind.ARTIFACT) -> Candidate:
    return Candidate(kind, name, name, used)


def test_a_plan_of_another_node_of_the_name_says_nothing() -> None:
    spec = NodeCacheSpec(node_uid="me", plan="p", artifacts=[PlannedArtifact(digest=NAMES[0], action=Action.RELEASE)])
    assert not plan_of(spec, generation=1, node_uid="me").says_nothing
    assert not plan_of(spec, generation=1, node_uid=None).says_nothing
    assert plan_of(spec, generation=1, node_uid="another").says_nothing


def test_without_a_plan_only_leftovers_go() -> None:
    order = EvictionOrder()
    everything = [candidate(NAMES[0]), candidate("q", kind=Kind.QUARANTINE), candidate("l", kind=Kind.LEFTOVER)]
    assert [one.key for one in order.order(everything)] == ["q", "l"]


def test_released_ones_go_first_then_unlisted_ones_by_use_and_the_rest_never() -> None:
    order = EvictionOrder()
    order.plan = plan(a=(NAMES[0], Action.STAGE, 1), b=(NAMES[1], Action.KEEP, 0), c=(NAMES[2], Action.RELEASE, 0))
    everything = [candidate(NAMES[number], used=float(9 - number)) for number in range(6)]
    assert [one.key for one in order.order(everything)] == [NAMES[2], NAMES[5], NAMES[4], NAMES[3]]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(list(Action))), unique_by=lambda row: row[0]))
def test_what_is_staged_or_kept_is_never_among_what_goes(rows: list[tuple[ArtifactId, Action]]) -> None:
    order = EvictionOrder()
    order.plan = Plan({name: PlannedArtifact(digest=name, action=action) for name, action in rows})
    going = {one.key for one in order.order([candidate(name) for name in NAMES])}
    staying = {name for name, action in rows if action is not Action.RELEASE}
    assert going == (set(NAMES) - staying if rows else set())


def test_of_those_alike_the_one_that_is_wanted_sooner_is_staged_first() -> None:
    noon = datetime.datetime(2026, 12, 1, 12, tzinfo=datetime.UTC)
    hour = datetime.timedelta(hours=1)
    wanted = {0: (1, noon + hour), 1: (1, noon), 2: (1, None), 3: (2, noon + 9 * hour)}
    made = Plan(
        {
            NAMES[number]: PlannedArtifact(digest=NAMES[number], action=Action.STAGE, priority=priority, ready_by=ready_by)
            for number, (priority, ready_by) in wanted.items()
        }
    )
    assert [one.digest for one in made.to_stage] == [NAMES[3], NAMES[2], NAMES[1], NAMES[0]]


def test_the_planners_classes_become_the_agents_priorities() -> None:
    for number, expected in (
        (900_000_000, Priority.WAITING_POD),
        (800_000_000, Priority.WAITING_POD),
        (799_999_999, Priority.DECLARED),
        (700_000_000, Priority.DECLARED),
        (600_000_000, Priority.FOLLOW_ON),
        (0, Priority.FOLLOW_ON),
    ):
        assert priority_of(PlannedArtifact(digest=NAMES[0], action=Action.STAGE, priority=number)) is expected


def decided(
    planned: Plan, *, whole: set[ArtifactId] | None = None, stages: dict[ArtifactId, SeenStage] | None = None, now: float = 1000.0
) -> list[Step]:
    return decide(planned, frozenset(whole or set()), stages or {}, planned_at=500.0, now=now)


WANTED = plan(a=(NAMES[0], Action.STAGE, 900_000_000), b=(NAMES[1], Action.STAGE, 1), c=(NAMES[2], Action.KEEP, 0))


def test_what_is_to_be_staged_and_is_not_there_is_begun_the_most_urgent_first() -> None:
    assert decided(WANTED) == [Begin(NAMES[0], Priority.WAITING_POD), Begin(NAMES[1], Priority.FOLLOW_ON)]
    assert decided(WANTED, whole={NAMES[0], NAMES[1]}) == []


def test_a_stage_that_runs_is_urged_never_slowed() -> None:
    running = SeenStage("s", Priority.DECLARED, has_ended=False)
    stages = {NAMES[0]: running, NAMES[1]: running}
    assert decided(WANTED, stages=stages) == [Begin(NAMES[0], Priority.WAITING_POD)]


def test_what_is_no_longer_wanted_is_taken_back_unless_somebody_waits() -> None:
    running = SeenStage("s", Priority.DECLARED, has_ended=False)
    followed = SeenStage("t", Priority.WAITING_POD, has_ended=False, listeners=1)
    whole = {NAMES[0], NAMES[1]}
    assert decided(WANTED, whole=whole, stages={NAMES[3]: running, NAMES[4]: followed}) == [TakeBack(NAMES[3], "s")]
    assert decided(Plan(), stages={NAMES[3]: running}) == []  # nothing is said: go on


def test_what_failed_for_good_is_begun_again_with_the_next_plan_or_later() -> None:
    only = plan(a=(NAMES[0], Action.STAGE, 1))
    before = SeenStage("s", Priority.FOLLOW_ON, has_ended=True, failed_at=400.0)
    since = SeenStage("s", Priority.FOLLOW_ON, has_ended=True, failed_at=900.0)
    begun = [Begin(NAMES[0], Priority.FOLLOW_ON)]
    assert decided(only, stages={NAMES[0]: before}) == begun
    assert decided(only, stages={NAMES[0]: since}) == []
    assert decided(only, stages={NAMES[0]: since}, now=1200.0) == begun
