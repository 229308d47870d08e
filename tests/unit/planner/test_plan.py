"""Who gets what, by example."""

from __future__ import annotations

import dataclasses

from planning.worlds import NOW, bound, carried_out, node, shown, standing, waiting

from prestage.api.nodes import ENTRIES_MAX, Action, ErrorClass, SourceType, State
from prestage.planner.demands import Wall
from prestage.planner.nodes import Held
from prestage.planner.plan import Rules, plan
from prestage.planner.plans import Outcome, Reason

STAGE, KEEP, RELEASE = Action.STAGE, Action.KEEP, Action.RELEASE


def test_a_bound_pod_is_staged_for_on_its_node_before_everything_else() -> None:
    made = plan([waiting("b", "n1", priority=9), bound("a", "n1")], [node("n1")], NOW)
    assert [one.artifact for one in made.nodes["n1"].assignments] == ["a", "b"]
    priorities = [one.priority for one in made.nodes["n1"].assignments]
    assert priorities == [900_000_000, 800_000_009]


def test_pods_on_several_nodes_are_staged_for_on_each() -> None:
    made = plan([bound("a", "n1", "n2")], [node("n1"), node("n2"), node("n3")], NOW)
    assert shown(made) == {"n1": {"a": STAGE}, "n2": {"a": STAGE}, "n3": {}}


def test_a_waiting_pod_gets_a_warm_node_and_nothing_is_staged_elsewhere() -> None:
    made = plan([waiting("a", "n1", "n2", "n3")], [node("n1", 900), node("n2", 100, "a"), node("n3")], NOW)
    assert shown(made) == {"n1": {}, "n2": {"a": STAGE}, "n3": {}}
    assert made.verdicts["w-a"].outcome is Outcome.ON_TIME


def test_where_nothing_is_warm_the_node_with_most_room_is_chosen() -> None:
    made = plan([waiting("a", "n1", "n2")], [node("n1", 100), node("n2", 900)], NOW)
    assert shown(made) == {"n1": {}, "n2": {"a": STAGE}}


def test_no_more_nodes_are_chosen_than_pods_wait_or_than_have_place_for_them() -> None:
    nodes = [node(f"n{number}") for number in range(5)]
    names = [one.name for one in nodes]
    one_each = plan([waiting("a", *names, count=3)], nodes, NOW)
    assert sum(map(len, shown(one_each).values())) == 3
    roomy = dataclasses.replace(waiting("a", *names, count=3), at=dict.fromkeys(names, 8))
    assert sum(map(len, shown(plan([roomy], nodes, NOW)).values())) == 1


def test_what_fits_nowhere_now_is_staged_once_where_it_may_run_later() -> None:
    made = plan([waiting("a", count=4, feasible=["n1", "n2"])], [node("n1"), node("n2"), node("n3", 900)], NOW)
    assert shown(made) == {"n1": {"a": STAGE}, "n2": {}, "n3": {}}


def test_a_node_without_report_or_that_takes_no_pods_is_chosen_for_bound_pods_only() -> None:
    nodes = [node("n1", None), node("n2", is_accepting=False)]
    made = plan([waiting("a", "n1", "n2"), bound("b", "n1", "n2")], nodes, NOW)
    assert shown(made) == {"n1": {"b": STAGE}, "n2": {"b": STAGE}}
    assert made.verdicts["w-a"].outcome is Outcome.IMPOSSIBLE
    assert made.verdicts["w-a"].reason is Reason.NO_NODE


def test_a_choice_once_made_stands_though_another_node_has_more_room_now() -> None:
    demand = waiting("a", "n1", "n2")
    nodes = [node("n1", 200), node("n2", 100)]
    first = plan([demand], nodes, NOW)
    later = [dataclasses.replace(one, budget_bytes=100 if one.name == "n1" else 900) for one in nodes]
    later = carried_out(later, first, state=State.STAGING)
    assert shown(plan([demand], later, NOW)) == shown(first) == {"n1": {"a": STAGE}, "n2": {}}


def test_a_node_on_which_it_failed_is_the_last_choice() -> None:
    broken = dataclasses.replace(node("n1", 900), held={"a": Held(State.FAILED, ErrorClass.FULL)})
    assert shown(plan([waiting("a", "n1", "n2")], [broken, node("n2")], NOW)) == {"n1": {}, "n2": {"a": STAGE}}


def test_a_standing_template_keeps_what_is_warm_and_stages_nothing() -> None:
    made = plan([standing("a", "n1", "n2", "n3")], [node("n1", 100, "a"), node("n2", 100, "a"), node("n3")], NOW)
    assert shown(made) == {"n1": {"a": KEEP}, "n2": {"a": KEEP}, "n3": {}}
    assert made.verdicts["s-a"].reason is Reason.KEPT


def test_what_nobody_wants_is_not_listed_and_released_only_before_a_wanted_copy_goes() -> None:
    easy = plan([bound("a", "n1")], [node("n1", 100, "old")], NOW)
    assert shown(easy) == {"n1": {"a": STAGE}}
    other = node("n2", 100, "kept")
    tight = plan([bound("a", "n1", size=90), standing("kept", "n1", "n2")], [node("n1", 100, "old", "kept"), other], NOW)
    assert shown(tight) == {"n1": {"a": STAGE, "old": RELEASE}, "n2": {"kept": KEEP}}


def test_a_waiting_pod_goes_elsewhere_rather_than_over_a_last_copy() -> None:
    nodes = [node("n1", 50, "last"), node("n2", 40)]
    made = plan([waiting("a", "n1", "n2", size=40), standing("last", "n1", "n2")], nodes, NOW)
    assert shown(made) == {"n1": {"last": KEEP}, "n2": {"a": STAGE}}


def test_where_a_pod_is_bound_a_last_copy_moves_first_and_the_verdict_says_so() -> None:
    demands = [bound("a", "n1", size=90), standing("last", "n1", "n2")]
    nodes = [node("n1", 100, "last"), node("n2")]
    moving = plan(demands, nodes, NOW)
    assert shown(moving) == {"n1": {"last": KEEP}, "n2": {"last": STAGE}}
    assert (moving.verdicts["b-a-n1"].outcome, moving.verdicts["b-a-n1"].reason) == (Outcome.LATE, Reason.MOVING)
    moved = plan(demands, carried_out(nodes, moving, state=State.WARM), NOW)
    assert shown(moved) == {"n1": {"a": STAGE}, "n2": {"last": KEEP}}


def test_a_last_copy_that_no_other_node_takes_gives_way_to_a_bound_and_to_a_waiting_pod() -> None:
    nodes = [node("n1", 100, "last"), node("n2", 20)]
    for demand in (bound("a", "n1", size=90), waiting("a", "n1", size=90)):
        made = plan([demand, standing("last", "n1", "n2")], nodes, NOW)
        assert shown(made) == {"n1": {"a": STAGE}, "n2": {}}


def test_first_copies_are_kept_before_second_ones() -> None:
    nodes = [node("n1", 60, "a", "b"), node("n2", 100, "a")]
    made = plan([bound("c", "n1"), standing("a", "n1", "n2"), standing("b", "n1")], nodes, NOW)
    assert shown(made) == {"n1": {"c": STAGE, "b": KEEP}, "n2": {"a": KEEP}}


def test_a_model_larger_than_the_budget_is_impossible_with_that_reason() -> None:
    made = plan([bound("a", "n1", size=101), waiting("b", "n1", size=500)], [node("n1")], NOW)
    assert shown(made) == {"n1": {}}
    assert made.verdicts["b-a-n1"].refused == {"n1": Reason.TOO_LARGE}
    assert made.verdicts["w-b"].reason is Reason.TOO_LARGE


def test_a_full_node_is_told_from_a_small_one() -> None:
    made = plan([bound("a", "n1", size=60), bound("b", "n1", size=60)], [node("n1")], NOW)
    assert made.verdicts["b-b-n1"].reason is Reason.NODE_FULL


def test_walls_hold_for_bound_pods_too_and_shared_bytes_are_charged_to_each_namespace() -> None:
    red = bound("a", "n1", "n2", size=30)
    blue = dataclasses.replace(bound("a", "n1", size=30), id="blue", namespace="blue")
    walls = {"team": Wall(bytes=59), "blue": Wall(bytes_per_node=29)}
    made = plan([red, blue], [node("n1"), node("n2")], NOW, walls=walls)
    assert shown(made) == {"n1": {"a": STAGE}, "n2": {}}
    assert made.verdicts[red.id].refused == {"n2": Reason.NAMESPACE_BYTES}
    assert made.verdicts["blue"].refused == {"n1": Reason.NAMESPACE_NODE_BYTES}


def test_priorities_stop_at_the_ceiling_and_never_reach_a_surer_class() -> None:
    demands = [waiting("a", "n1", priority=2_000_000_000), waiting("b", "n1", priority=7)]
    made = plan(demands, [node("n1")], NOW, walls={"team": Wall(max_priority=1000)})
    assert [one.priority for one in made.nodes["n1"].assignments] == [800_001_000, 800_000_007]
    free = plan(demands, [node("n1")], NOW)
    assert free.nodes["n1"].assignments[0].priority == 899_999_999


def test_a_node_is_never_given_more_entries_than_its_object_takes() -> None:
    demands = [bound(f"a{number:03}", "n1", size=0) for number in range(ENTRIES_MAX + 3)]
    made = plan(demands, [node("n1")], NOW)
    assert len(made.nodes["n1"].assignments) == ENTRIES_MAX
    refused = [one for one in made.verdicts.values() if one.reason is Reason.TOO_MANY]
    assert len(refused) == 3


def test_lateness_is_the_bytes_ahead_at_the_rate_of_the_node() -> None:
    made = plan([bound("a", "n1", size=30, priority=1), bound("b", "n1", size=20)], [node("n1", rate=10.0)], NOW)
    assert made.verdicts["b-a-n1"].late_by_s == 3.0
    assert made.verdicts["b-b-n1"].late_by_s == 5.0
    assert made.verdicts["b-b-n1"].ready_at == NOW + 5.0
    assert made.verdicts["b-b-n1"].outcome is Outcome.LATE


def test_without_a_measured_rate_nobody_can_tell_when() -> None:
    verdict = plan([bound("a", "n1")], [node("n1", rate=None)], NOW).verdicts["b-a-n1"]
    assert (verdict.outcome, verdict.ready_at, verdict.late_by_s) == (Outcome.LATE, None, None)


def test_what_is_asked_for_later_and_comes_before_is_on_time() -> None:
    demand = waiting("a", "n1", size=30, ready_by=NOW + 4)
    assert plan([demand], [node("n1", rate=10.0)], NOW).verdicts["w-a"].outcome is Outcome.ON_TIME
    assert plan([demand], [node("n1", rate=5.0)], NOW).verdicts["w-a"].late_by_s == 2.0


def test_a_stage_that_failed_is_told_with_class_and_code() -> None:
    denied = dataclasses.replace(node("n1"), held={"a": Held(State.FAILED, ErrorClass.DENIED, "NoGrant")})
    verdict = plan([bound("a", "n1")], [denied], NOW).verdicts["b-a-n1"]
    assert (verdict.outcome, verdict.reason, verdict.error) == (Outcome.IMPOSSIBLE, Reason.STAGE_FAILED, ("Denied", "NoGrant"))
    away = dataclasses.replace(node("n1"), held={"a": Held(State.FAILED, ErrorClass.UNAVAILABLE, "OriginDown")})
    verdict = plan([bound("a", "n1")], [away], NOW).verdicts["b-a-n1"]
    assert (verdict.outcome, verdict.reason) == (Outcome.LATE, Reason.RETRYING)


def test_peers_that_hold_it_come_before_the_origin_and_stay_named_while_they_do() -> None:
    nodes = [node("n1"), node("n2", 100, "a"), node("n3", 100, "a")]
    demand = bound("a", "n1")
    made = plan([demand], nodes, NOW)
    sources = made.nodes["n1"].assignments[0].sources
    assert [one.type for one in sources] == [SourceType.PEER, SourceType.PEER, SourceType.ORIGIN]
    more = [*carried_out(nodes, made, state=State.STAGING), node("n4", 100, "a")]
    assert plan([demand], more, NOW).nodes["n1"].assignments[0].sources == sources
    gone = [one if one.name != "n2" else dataclasses.replace(one, held={}) for one in more]
    again = plan([demand], gone, NOW).nodes["n1"].assignments[0].sources
    assert "n2" not in {one.node for one in again}
    alone = plan([demand], nodes, NOW, rules=Rules(peers=False)).nodes["n1"].assignments[0].sources
    assert [one.type for one in alone] == [SourceType.ORIGIN]


def test_a_plan_that_says_the_same_has_the_same_version() -> None:
    nodes = [node("n1")]
    first, second = (plan([bound("a", "n1")], nodes, NOW + later).nodes["n1"].version for later in (0, 60))
    assert first == second
    assert plan([bound("b", "n1")], nodes, NOW).nodes["n1"].version != first
