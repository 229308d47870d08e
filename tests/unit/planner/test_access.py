"""A namespace whose origin refuses it by now: what its StagedModel and its people are told, and what is planned no more."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning.objects import artifact, digest, head, line, staged_model
from planning.worlds import NOW, standing, waiting
from planning.worlds import node as state

from prestage.api.artifacts import AccessState, SourceAccess
from prestage.api.models import StagedModel
from prestage.api.nodes import Action, State
from prestage.api.reading import read
from prestage.api.values import ConditionStatus
from prestage.control.demand.collecting import Collected
from prestage.control.demand.records import Known
from prestage.control.demand.schedules import model_line
from prestage.control.planning.access import allowed, authorized, blocked, evicting, released, rows_in, worthless
from prestage.control.planning.board import Posted
from prestage.control.planning.explaining import complaints
from prestage.control.planning.statuses import Spread, model_status
from prestage.kube.events import Subject
from prestage.kube.ports import Object
from prestage.kube.resources import DEPLOYMENTS
from prestage.planner.demands import Trust
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plan import plan
from prestage.planner.plans import Assignment, NodePlan, Plan
from prestage.planner.values import Use

AT = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)
GONE = SourceAccess(
    source="ref:llama",
    state=AccessState.REVOKED,
    verified_at=AT,
    checked_at=AT,
    refused_since=AT,
    reason="OriginRefused",
    message="s3://b/m/: not allowed",
)
A = digest("a")
LINE = line(ref="ref:llama")
KNOWN = {LINE: Known(A, 1000, "team")}


def with_access(made: Object, *rows: SourceAccess) -> Object:
    status = made["status"]
    assert isinstance(status, dict)
    return {**made, "status": {**status, "access": [msgspec.to_builtins(row, str_keys=True) for row in rows]}}


@pytest.mark.parametrize(
    ("row", "days", "status", "reason", "says"),
    [
        (None, 0, ConditionStatus.TRUE, "ResolvedWithOwnCredentials", ""),
        (GONE, 0, ConditionStatus.FALSE, "OriginRefused", "last verified 2026-11-26T00:00:00Z; s3://b/m/: not allowed"),
        (msgspec.structs.replace(GONE, state=AccessState.DOUBTED), 0, ConditionStatus.TRUE, "Verified", "not allowed"),
        (msgspec.structs.replace(GONE, state=AccessState.VERIFIED), 3, ConditionStatus.UNKNOWN, "OriginRefused", "not allowed"),
        (SourceAccess(source="ref:llama", state=AccessState.VERIFIED, verified_at=AT, checked_at=AT), 1,
         ConditionStatus.TRUE, "Verified", "last verified 2026-11-26T00:00:00Z"),
    ],
)  # fmt: skip
def test_authorized_says_when_it_was_verified_last(
    row: SourceAccess | None, days: int, status: ConditionStatus, reason: str, says: str
) -> None:
    found = authorized([row] if row else [], "ref:llama", AT + datetime.timedelta(days=days))
    assert found[:2] == (status, reason)
    assert says in found[2]
    model = read(StagedModel, staged_model())
    said = model_status(model, KNOWN[LINE], None, Spread(), AT + datetime.timedelta(days=days), access=[row] if row else [])
    conditions = {one.type: one for one in said.conditions or ()}
    assert (conditions["Authorized"].status, conditions["Authorized"].message) == (found[0], found[2])
    assert conditions["Ready"].status is found[0]


def test_who_waits_for_what_is_revoked_is_staged_nothing_and_what_is_warm_stays() -> None:
    stopped = blocked([with_access(artifact("a", LINE), GONE), artifact("b", line("other"))], KNOWN)
    assert stopped == {LINE: GONE}
    demands = (waiting(A, "n1", "n2"), standing(A, "n1", "n2"))
    collected = Collected(demands, lines={one.id: LINE for one in demands}, known=KNOWN)
    left = allowed(collected, stopped, set())
    assert [one.trust for one in left] == [Trust.STANDING]
    nodes = [state("n1", 100, A), state("n2", 100)]
    made = released(plan(left, nodes, NOW), nodes, KNOWN, stopped, set())
    assert {name: [one.action for one in said.assignments] for name, said in made.nodes.items()} == {
        "n1": [Action.KEEP],
        "n2": [],
    }
    assert allowed(collected, {}, set()) == demands


def test_a_name_that_still_stands_is_not_blocked_by_another_one_of_the_same_artifact() -> None:
    other = msgspec.structs.replace(GONE, source="ref:other")
    assert (
        blocked([with_access(artifact("a", LINE), other, msgspec.structs.replace(GONE, state=AccessState.VERIFIED))], KNOWN) == {}
    )
    assert blocked([with_access(artifact("a", LINE, namespace="owner"), GONE)], KNOWN) == {}, "another namespace's"


def test_evict_keeps_nothing_for_it_and_nodes_let_go_of_it_first() -> None:
    model = {**staged_model(), "spec": {"source": "hf://org/model", "onRevoked": "Evict"}, "metadata": head("llama")}
    stopped = {LINE: GONE, model_line(model): GONE}
    evicted = evicting([model], stopped)
    assert evicted == {("team", "ref:llama")}
    assert evicting([staged_model()], stopped) == set(), "BlockNewMounts"
    demands = (standing(A, "n1"),)
    collected = Collected(demands, lines={demands[0].id: LINE}, known=KNOWN)
    assert allowed(collected, stopped, evicted) == ()
    nodes = [NodeState(name, f"{name}-uid", 100, held={A: Held(State.WARM)}) for name in ("n1", "n2")] + [state("n3", 100)]
    kept = (Assignment(digest("b"), Action.KEEP),)
    made = Plan({"n1": NodePlan("n1", "n1-uid", kept), "n2": NodePlan("n2", "n2-uid"), "n3": NodePlan("n3", "n3-uid", kept)})
    after = released(made, nodes, {**KNOWN, model_line(model): KNOWN[LINE]}, stopped, evicted)
    assert after.nodes["n1"].assignments == (*kept, Assignment(A, Action.RELEASE))
    assert after.nodes["n2"].assignments == (), "an empty plan evicts nothing"
    assert after.nodes["n3"].assignments == kept


@pytest.mark.parametrize(("policy", "action"), [("Evict", Action.RELEASE), ("BlockNewMounts", Action.KEEP)])
def test_that_it_was_started_once_keeps_it_no_longer_where_it_is_to_be_evicted(policy: str, action: Action) -> None:
    """Seen on a real cluster: what pods had started stayed `Keep` for its past uses."""
    model = {**staged_model(), "spec": {"source": "hf://org/model", "onRevoked": policy}, "metadata": head("llama")}
    stopped = {LINE: GONE, model_line(model): GONE}
    known = {**KNOWN, model_line(model): KNOWN[LINE]}
    evicted, other = evicting([model], stopped), digest("b")
    nodes = [state("n1", 10_000, A, other)]
    uses = worthless({A: Use(10.0, NOW, 1000)}, known, stopped, evicted)
    made = released(plan((standing(other, "n1"),), nodes, NOW, uses=uses), nodes, known, stopped, evicted)
    assert {one.artifact: one.action for one in made.nodes["n1"].assignments} == {other: Action.KEEP, A: action}


def test_its_people_are_told_and_strangers_are_told_less() -> None:
    for namespace in ("team", "guests"):
        subject = Subject(DEPLOYMENTS, "web", namespace, "web-uid")
        posted = Posted(Collected(subjects={"web-uid": subject}, known=KNOWN), blocked={LINE: GONE})
        [said] = complaints(posted, {})
        assert said.reason == "AccessRevoked"
        assert "; " in said.note
        assert ("s3://b/m/" in said.note) is (namespace == "team")


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_whatever_stands_in_a_status_is_read_or_passed_by(value: object) -> None:
    assert isinstance(rows_in({"status": {"access": value}}), list)
