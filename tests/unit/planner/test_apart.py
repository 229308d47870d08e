"""Images beside models: another room on the same node, and the same nodes for the same pods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prestage.api.nodes import ENTRIES_MAX, IMAGES_MAX, MODELS_MAX, Action, EntryType, State
from prestage.calendar.windows import Opening, Openings
from prestage.control.demand.collecting import Collected
from prestage.control.demand.declared import Asked, Declaration, Due, Place, Want
from prestage.control.demand.records import Line, Question
from prestage.control.planning.outcomes import windows
from prestage.kube.events import Subject
from prestage.kube.resources import DEPLOYMENTS
from prestage.planner.apart import plan_apart
from prestage.planner.demands import Demand, ToldBy, Trust
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plans import Outcome, Plan, Reason, Verdict

NOW = 1_000_000.0
NAMES = ("n1", "n2", "n3")


def node(name: str, budget: int, *warm: str) -> NodeState:
    held = {one: Held(State.WARM) for one in warm}
    return NodeState(name, f"uid-{name}", budget, rate_bytes_per_s=100.0, used_bytes=0, held=held)


def wanted(artifact: str, size: int, trust: Trust = Trust.WAITING, *, image: bool = False, **more: Any) -> Demand:
    kind = EntryType.IMAGE if image else EntryType.MODEL
    common: dict[str, object] = {"at": dict.fromkeys(NAMES, 1), "feasible": frozenset(NAMES), "together": "app", "kind": kind}
    return Demand(artifact, artifact, size, "team", trust, **{**common, **more})


def said(plan: Plan) -> dict[str, set[tuple[str, Action, EntryType]]]:
    return {
        name: {(one.artifact, one.action, one.kind) for one in made.assignments}
        for name, made in plan.nodes.items()
        if made.assignments
    }


def test_an_image_takes_no_room_of_the_store_and_goes_where_its_model_goes() -> None:
    nodes = [node("n1", 100), node("n2", 1000), node("n3", 100)]
    images = [node("n1", 5000), node("n2", 800), node("n3", 5000)]
    plan = plan_apart([wanted("model", 900), wanted("image", 700, image=True)], nodes, images, NOW)
    assert said(plan) == {"n2": {("model", Action.STAGE, EntryType.MODEL), ("image", Action.STAGE, EntryType.IMAGE)}}
    assert plan.nodes["n2"].ready_at == {"model": NOW + 9, "image": NOW + 7}


def test_an_image_alone_goes_where_there_is_room_for_images() -> None:
    nodes = [node(name, 100) for name in NAMES]
    alone = wanted("image", 700, Trust.DECLARED, image=True, copies=2, count=2)
    plan = plan_apart([alone], nodes, [node("n1", 800), node("n3", 900)], NOW)
    assert said(plan) == {name: {("image", Action.STAGE, EntryType.IMAGE)} for name in ("n1", "n3")}
    full = plan_apart([alone], nodes, [node("n1", 600)], NOW).verdicts["image"]
    assert (full.outcome, full.reason) == (Outcome.IMPOSSIBLE, Reason.TOO_LARGE)


def test_where_no_node_stages_images_models_are_planned_as_ever() -> None:
    nodes = [node(name, 1000) for name in NAMES]
    plan = plan_apart([wanted("model", 900), wanted("image", 700, image=True)], nodes, [], NOW)
    assert {one for rows in said(plan).values() for one in rows} == {("model", Action.STAGE, EntryType.MODEL)}
    assert "image" not in plan.verdicts, "its pods do not miss it"
    asked = wanted("image", 700, Trust.DECLARED, image=True, copies=1, source=ToldBy.STAGING_SCHEDULE)
    said_so = plan_apart([asked], nodes, [], NOW).verdicts["image"]
    assert (said_so.outcome, said_so.reason) == (Outcome.IMPOSSIBLE, Reason.NO_NODE), "somebody asked for it"


def test_what_comes_along_asks_nothing_of_nodes_that_stage_no_images() -> None:
    nodes = [node(name, 1000) for name in NAMES]
    model = wanted("model", 900, Trust.DECLARED, count=2)
    image = wanted("image", 700, Trust.DECLARED, image=True, count=2)
    plan = plan_apart([model, image], nodes, [node("n1", 1000)], NOW)
    assert {name for name, rows in said(plan).items() if ("image", Action.STAGE, EntryType.IMAGE) in rows} == {"n1"}
    assert plan.verdicts["image"].missing == 0
    bound = wanted("image", 700, Trust.BOUND, image=True, at={"n2": 1})
    assert "image" not in plan_apart([bound], nodes, [node("n1", 1000)], NOW).verdicts


def test_what_is_warm_is_kept_while_its_template_stands_and_not_named_after() -> None:
    nodes, images = [node("n1", 1000, "model")], [node("n1", 1000, "image", "other")]
    standing = [wanted("model", 10, Trust.STANDING), wanted("image", 10, Trust.STANDING, image=True)]
    plan = plan_apart(standing, nodes, images, NOW)
    assert said(plan)["n1"] == {("model", Action.KEEP, EntryType.MODEL), ("image", Action.KEEP, EntryType.IMAGE)}
    assert said(plan_apart(standing[:1], nodes, images, NOW))["n1"] == {("model", Action.KEEP, EntryType.MODEL)}


def test_a_plan_that_was_carried_out_gives_itself() -> None:
    nodes, images = [node(name, 1000) for name in NAMES], [node(name, 1000) for name in NAMES]
    demand = [wanted("model", 900), wanted("image", 700, image=True)]
    first = plan_apart(demand, nodes, images, NOW)
    [(name, made)] = [(name, one) for name, one in first.nodes.items() if one.assignments]
    told = {one.artifact: one for one in made.assignments}

    def after(states: list[NodeState], kind: EntryType) -> list[NodeState]:
        mine = {key: one for key, one in told.items() if one.kind is kind}
        return [replace(one, planned=mine) if one.name == name else one for one in states]

    again = plan_apart(demand, after(nodes, EntryType.MODEL), after(images, EntryType.IMAGE), NOW, before=first)
    assert again.nodes[name].says_what(made)


def test_a_node_is_told_no_more_entries_than_its_object_takes() -> None:
    models = [wanted(f"m{number:04}", 1, Trust.BOUND, at={"n1": 1}) for number in range(ENTRIES_MAX)]
    images = [wanted(f"i{number:04}", 1, Trust.BOUND, at={"n1": 1}, image=True) for number in range(IMAGES_MAX + 10)]
    one = node("n1", 10**6)
    plan = plan_apart([*models, *images], [replace(one, entries_max=MODELS_MAX)], [replace(one, entries_max=IMAGES_MAX)], NOW)
    rows = plan.nodes["n1"].assignments
    assert len(rows) == ENTRIES_MAX
    assert sum(one.kind is EntryType.IMAGE for one in rows) == IMAGES_MAX


def test_a_window_waits_for_the_images_that_somebody_stages_and_for_no_others() -> None:
    made = Opening(NOW + 60, NOW + 3660)
    openings = Openings(None, made, NOW + 60)

    def due(name: str, source: ToldBy, architecture: str = "") -> Due:
        asked = Asked(name, Question("team", Line("u", "h", name, "ref")), architecture)
        declaration = Declaration(Subject(DEPLOYMENTS, "web", "team", "web-uid"), source)
        return Due(name, declaration, Want("ready", openings, (asked,), Place(), 1), asked, made)

    warm = {"model": Verdict(Outcome.ON_TIME, Reason.WARM)}
    for source, verdicts, expected in (
        (ToldBy.READY_SCHEDULE, warm, True),  # nobody stages it: the kubelet pulls
        (ToldBy.READY_SCHEDULE, {**warm, "image": Verdict(Outcome.ON_TIME, Reason.STAGING)}, False),
        (ToldBy.STAGING_SCHEDULE, warm, False),
    ):
        dues = {one.id: one for one in (due("model", source), due("image", source, "amd64"))}
        [(_, _, is_warm)] = windows(Collected(dues=dues), Plan(verdicts=verdicts)).values()
        assert is_warm is expected, (source, verdicts)
