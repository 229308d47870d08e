"""Access that was proved once, looked at again: what one look changes, when the next one is, and whose turn it is. Pure."""

from __future__ import annotations

import datetime
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prestage.api.artifacts import AccessState, SourceAccess
from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.origins.answers import OurFault
from prestage.cacher.origins.hub_answers import NoRepository
from prestage.control.access import AccessTerms, Finding, Outcome, after, completed, due_at, proved, revoked
from prestage.control.broker.proving import PROVED, finding_of
from prestage.control.broker.rechecking import Look, fair, looks
from prestage.control.broker.refusals import No, denied, misconfigured
from prestage.control.broker.shelf import TRACES, Kept, access_in
from prestage.control.broker.sources import Trace, named_as, named_by, read_wish
from prestage.kube.errors import Forbidden, Unreachable

TERMS = AccessTerms()
START = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)
ROW = proved("ref:llama", START)
NO = Finding(Outcome.REFUSED, "OriginRefused", "not any more")
NOTHING = Finding(Outcome.UNKNOWN, "OriginUnavailable", "away")
MINUTE = datetime.timedelta(minutes=1)


def later(minutes: float) -> datetime.datetime:
    return START + minutes * MINUTE


def test_a_no_counts_once_it_is_confirmed_and_a_yes_takes_it_back() -> None:
    doubted = after(ROW, NO, later(0), TERMS)
    assert (doubted.state, doubted.refused_since, doubted.verified_at) == (AccessState.DOUBTED, START, START)
    assert after(doubted, NO, later(9), TERMS).state is AccessState.DOUBTED, "too soon to be another answer"
    gone = after(doubted, NO, later(10), TERMS)
    assert (gone.state, gone.refused_since, gone.reason) == (AccessState.REVOKED, START, "OriginRefused")
    assert after(gone, NOTHING, later(20), TERMS).state is AccessState.REVOKED
    assert after(doubted, NOTHING, later(20), TERMS).state is AccessState.DOUBTED
    assert after(gone, PROVED, later(30), TERMS) == proved("ref:llama", later(30))


def test_the_next_look_is_within_a_day_and_sooner_after_a_no_or_nothing() -> None:
    assert later(0.9 * 1440) <= due_at(ROW, TERMS, "a") <= later(1440)
    assert len({due_at(ROW, TERMS, str(number)) for number in range(20)}) == 20, "not all at once"
    unknown = after(ROW, NOTHING, later(1440), TERMS)
    assert due_at(unknown, TERMS, "a") == later(1470)
    for days, hours in ((1.5, 6), (2, 12), (10, 24)):
        overdue = after(ROW, NOTHING, later(days * 1440), TERMS)
        assert due_at(overdue, TERMS, "a") == later(days * 1440 + hours * 60), "less and less often, and daily"
    doubted = after(ROW, NO, later(1440), TERMS)
    assert due_at(doubted, TERMS, "a") == later(1450)
    assert due_at(after(doubted, NO, later(1450), TERMS), TERMS, "a") == later(1510)


@given(st.lists(st.tuples(st.sampled_from([PROVED, NO, NOTHING]), st.integers(0, 200)), max_size=12))
def test_nothing_but_two_noes_with_time_between_them_revokes(steps: list[tuple[Finding, int]]) -> None:
    row, at, noes = ROW, START, list[datetime.datetime]()
    for finding, minutes in steps:
        at += minutes * MINUTE
        before, row = row, after(row, finding, at, TERMS)
        noes = [] if finding is PROVED else [*noes, at] if finding is NO else noes
        may = len(noes) > 1 and noes[-1] - noes[0] >= TERMS.confirm
        assert (row.state is AccessState.REVOKED) <= (may or before.state is AccessState.REVOKED)
        if finding is NOTHING:
            assert row.state is before.state
        assert due_at(row, TERMS, "k") > row.checked_at


FINDINGS: dict[str, tuple[No | PrestageError, Outcome]] = {
    "the origin says no": (Denied("s3://b/k: not allowed"), Outcome.REFUSED),
    "a private repository is hidden": (NoRepository("no such repository, or it is private"), Outcome.REFUSED),
    "the Secret is gone": (denied("NoCredentials", "there is no Secret team-a/s3"), Outcome.REFUSED),
    "our clock": (OurFault("this machine's clock is 900 s off"), Outcome.UNKNOWN),
    "our wall": (denied("NotEnabled", "namespace team-a has not opted in"), Outcome.UNKNOWN),
    "the object is gone": (NotFound("s3://b/k does not exist"), Outcome.UNKNOWN),
    "away": (Unavailable("the origin"), Outcome.UNKNOWN),
    "wrong": (Misconfigured("s3://b/k: the server refuses the request: 400"), Outcome.UNKNOWN),
    "a Secret that cannot be read": (misconfigured("NoCredentials", "HF_TOKEN is not one word"), Outcome.UNKNOWN),
    "the API server away": (Unreachable("away"), Outcome.UNKNOWN),
    "the API server says no": (Forbidden("configmaps is forbidden"), Outcome.UNKNOWN),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_only_the_origin_or_a_credential_that_is_gone_speaks_against_a_namespace(case: str) -> None:
    error, outcome = FINDINGS[case]
    found = finding_of(error)
    assert found.outcome is outcome
    assert found.reason[0].isupper()
    assert found.message


def test_a_name_is_blocked_where_every_way_it_was_resolved_by_is() -> None:
    gone = after(after(ROW, NO, later(0), TERMS), NO, later(10), TERMS)
    by_a, by_b = (proved(f"hf://o/m@main by {secret}", START) for secret in "ab")
    no_a, no_b = (after(after(row, NO, later(0), TERMS), NO, later(10), TERMS) for row in (by_a, by_b))
    assert revoked([gone, by_a], "ref:llama") == gone
    assert revoked([gone, by_a], "hf://o/m@main") is None
    assert revoked([no_a, by_b], "hf://o/m@main") is None, "the other Secret still reads it"
    assert revoked([no_a, no_b, ROW], "hf://o/m@main") == no_a
    assert revoked([no_a, ROW], "hf://o/m@other") is None, "not among them any more: the namespace still has one that stands"
    assert revoked([no_a, no_b], "hf://o/m@other") == no_a
    assert revoked([no_a], "hf://o/m@mai") == no_a, "only of a name that is not there either"
    assert revoked([], "ref:llama") is None
    assert completed([gone], ["ref:llama", "ref:other", "ref:other"], later(5)) == [gone, proved("ref:other", later(5))]
    assert completed([gone], [], START) == []


def test_a_source_is_called_the_same_by_who_looks_and_who_mounts() -> None:
    wish = read_wish("a", "hf://org/m@main", "team-a")
    assert named_as(Trace(ref="hf://org/m@main", secret="hf")).split(" ")[0] == named_by(wish) == "hf://org/m@main"
    assert named_as(Trace(model="llama")) == named_by(read_wish("a", "ref:team-b/llama", "t")) == "ref:llama"


def shelved(namespace: str, *rows: SourceAccess, digest: str = "d") -> Kept:
    traces = tuple(Trace(model=row.source.removeprefix("ref:")) for row in rows)
    return Kept(namespace, digest, None, 1, 1, 1, (), traces, None, rows)


def test_each_source_has_its_own_day() -> None:
    held = shelved("team-a", ROW, proved("ref:other", later(60)))
    assert [(one.source, one.due > later(1000)) for one in looks([held], TERMS)] == [("ref:llama", True), ("ref:other", True)]


def test_a_namespace_with_thousands_waits_for_itself_only() -> None:
    crowd = [shelved("crowd", proved("ref:m", START), digest=str(number)) for number in range(500)]
    others = [shelved(f"team-{number}", proved("ref:m", later(30))) for number in range(9)]
    due = looks([*crowd, *others], TERMS)
    served, turns = dict[str, int](), Counter[str]()
    for turn in range(1, 21):
        [look] = fair(due, (), served, 1)
        served[look.holder.namespace] = turn
        turns[look.holder.namespace] += 1
        due = [one for one in due if one is not look]
    assert turns["crowd"] <= 12
    assert all(turns[f"team-{number}"] == 1 for number in range(9))
    assert [one.holder.namespace for one in fair(looks(others, TERMS), {f"team-{number}" for number in range(8)}, {}, 4)] == [
        "team-8"
    ]
    assert fair(due, (), {}, 0) == []


def test_what_waits_longest_is_first_within_a_namespace() -> None:
    held = [shelved("a", proved("ref:m", later(minutes)), digest=str(minutes)) for minutes in (500, 0, 900)]
    [look] = fair(looks(held, TERMS), (), {}, 4)
    assert isinstance(look, Look)
    assert look.holder.digest == "0"


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_whatever_stands_in_a_status_every_source_has_its_row(value: object) -> None:
    head = {
        "annotations": {TRACES: '[{"model":"llama"},{"ref":"hf://o/m","secret":"a"}]'},
        "creationTimestamp": "2026-11-26T00:00:00Z",
    }
    rows = access_in({"metadata": head, "status": {"access": value}})
    assert rows == [proved("ref:llama", START), proved("hf://o/m by a", START)]
