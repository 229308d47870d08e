"""The decision table: a test for each row, and the document that shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.api.annotations import OnTimeout, WaitFor
from prestage.control.gates.decision import ROWS, Decision, Reason, Situation, Verdict, decide, table

SOON = Situation(fitting=3, with_room=2, ready_in_s=40.0)
"""The one for which a gate is made."""
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "gates.md"

EXPECTED: list[tuple[str, Situation, Decision, Reason]] = [
    ("bound already", replace(SOON, placed=True), Decision.FREE, Reason.PLACED),
    ("the mount waits", replace(SOON, wait=WaitFor.MOUNT), Decision.FREE, Reason.NOT_WANTED),
    ("demand only", replace(SOON, wait=WaitFor.NONE), Decision.FREE, Reason.NOT_WANTED),
    ("leader silent for 16 s", replace(SOON, lease_age_s=16.0), Decision.FREE, Reason.CONTROLLER_UNWELL),
    ("nobody leads", replace(SOON, lease_age_s=None), Decision.FREE, Reason.CONTROLLER_UNWELL),
    ("unwell counts before Kueue", replace(SOON, lease_age_s=None, other_gates=True), Decision.FREE, Reason.CONTROLLER_UNWELL),
    ("leader 15 s old is well", replace(SOON, lease_age_s=15.0), Decision.GATE, Reason.READY_SOON),
    ("Kueue's gate is there", replace(SOON, other_gates=True, fitting=0, with_room=0), Decision.GATE, Reason.OTHER_GATES),
    ("warm node with room", replace(SOON, warm_with_room=1, ready_in_s=0.0), Decision.FREE, Reason.WARM_NODE),
    ("scale from zero", Situation(fitting=0, with_room=0), Decision.FREE, Reason.NO_NODE_FITS),
    ("warm node full, nothing else", replace(SOON, with_room=0), Decision.FREE, Reason.NO_ROOM),
    ("warm node full, a cold one soon", replace(SOON, with_room=1, warm_with_room=0), Decision.GATE, Reason.READY_SOON),
    ("waited long enough", replace(SOON, waited_s=150.0), Decision.FREE, Reason.TIMED_OUT),
    ("waited long enough, fail", replace(SOON, waited_s=150.0, on_timeout=OnTimeout.FAIL), Decision.FAIL, Reason.TIMED_OUT),
    (
        "waited long enough, only the image is missing",
        replace(SOON, waited_s=150.0, on_timeout=OnTimeout.FAIL, models_with_room=1, images_coming=True),
        Decision.FREE,
        Reason.TIMED_OUT,
    ),
    (
        "image on its way beside the model",
        replace(SOON, models_with_room=1, images_coming=True),
        Decision.GATE,
        Reason.READY_SOON,
    ),
    (
        "image on its way, too late",
        replace(SOON, models_with_room=1, images_coming=True, ready_in_s=151.0),
        Decision.FREE,
        Reason.TOO_LATE,
    ),
    (
        "image too late, and to fail: nothing fails for an image",
        replace(SOON, gated=True, on_timeout=OnTimeout.FAIL, models_with_room=1, images_coming=True, ready_in_s=151.0),
        Decision.FREE,
        Reason.TOO_LATE,
    ),
    (
        "image to be planned",
        replace(SOON, models_with_room=1, images_possible=True, ready_in_s=None),
        Decision.GATE,
        Reason.PLANNING,
    ),
    (
        "image planned by nobody",
        replace(SOON, models_with_room=1, images_possible=True, ready_in_s=None, waited_s=3.0),
        Decision.FREE,
        Reason.IMAGE_PULLED,
    ),
    ("image left to the kubelet", replace(SOON, models_with_room=1, ready_in_s=None), Decision.FREE, Reason.IMAGE_PULLED),
    (
        "warm at the last moment",
        replace(SOON, waited_s=150.0, on_timeout=OnTimeout.FAIL, warm_with_room=1),
        Decision.FREE,
        Reason.WARM_NODE,
    ),
    ("rollout due", replace(SOON, rollout_left_s=99.0), Decision.FREE, Reason.ROLLOUT_DUE),
    ("rollout far", replace(SOON, rollout_left_s=500.0), Decision.GATE, Reason.READY_SOON),
    ("staging failed everywhere", replace(SOON, failed=True, ready_in_s=None), Decision.FREE, Reason.CANNOT_BE_WARM),
    ("being resolved", replace(SOON, resolved=False, ready_in_s=None), Decision.GATE, Reason.RESOLVING),
    ("not resolved in time", replace(SOON, resolved=False, ready_in_s=None, waited_s=10.0), Decision.FREE, Reason.UNKNOWN),
    ("nobody can say", replace(SOON, ready_in_s=None), Decision.FREE, Reason.UNKNOWN),
    ("too late", replace(SOON, ready_in_s=151.0), Decision.FREE, Reason.TOO_LATE),
    ("too late by now", replace(SOON, ready_in_s=60.0, waited_s=100.0), Decision.FREE, Reason.TOO_LATE),
    (
        "too late, but to fail",
        replace(SOON, gated=True, on_timeout=OnTimeout.FAIL, ready_in_s=60.0, waited_s=100.0),
        Decision.GATE,
        Reason.LAST_CHANCE,
    ),
    ("too late from the start", replace(SOON, on_timeout=OnTimeout.FAIL, ready_in_s=151.0), Decision.FREE, Reason.TOO_LATE),
    ("a longer patience", replace(SOON, ready_in_s=200.0, gate_timeout_s=300.0), Decision.GATE, Reason.READY_SOON),
    ("soon", SOON, Decision.GATE, Reason.READY_SOON),
]


@pytest.mark.parametrize(("seen", "decision", "reason"), [row[1:] for row in EXPECTED], ids=[row[0] for row in EXPECTED])
def test_each_situation_has_its_answer(seen: Situation, decision: Decision, reason: Reason) -> None:
    assert decide(seen) == Verdict(decision, reason)


def test_every_row_is_tested() -> None:
    assert {(row.decision, row.reason) for row in ROWS} == {(decision, reason) for _, _, decision, reason in EXPECTED}


def test_the_document_shows_the_table() -> None:
    assert table() in DOCUMENT.read_text()


situations = st.builds(
    Situation,
    placed=st.booleans(),
    gated=st.booleans(),
    wait=st.sampled_from(WaitFor),
    on_timeout=st.sampled_from(OnTimeout),
    gate_timeout_s=st.floats(1, 3600),
    lease_age_s=st.none() | st.floats(-5, 100),
    other_gates=st.booleans(),
    fitting=st.integers(0, 3),
    with_room=st.integers(0, 3),
    warm_with_room=st.integers(0, 3),
    models_with_room=st.integers(0, 3),
    images_coming=st.booleans(),
    images_possible=st.booleans(),
    failed=st.booleans(),
    resolved=st.booleans(),
    ready_in_s=st.none() | st.floats(0, 5000),
    waited_s=st.floats(0, 5000),
    rollout_left_s=st.none() | st.floats(-100, 1000),
)


@given(situations)
def test_a_gate_is_never_kept_where_it_could_not_be_taken_off_or_does_not_help(seen: Situation) -> None:
    verdict = decide(seen)
    if verdict.decision is Decision.GATE:
        assert seen.wait is WaitFor.AUTO
        assert not seen.placed
        assert seen.lease_age_s is not None
        assert seen.lease_age_s <= 15
        if not seen.other_gates:
            assert seen.fitting
            assert seen.with_room
            assert seen.waited_s < seen.gate_timeout_s
            if seen.models_with_room and not seen.images_coming:
                assert seen.images_possible
                assert seen.waited_s < 3
    if verdict.decision is Decision.FAIL:
        assert seen.on_timeout is OnTimeout.FAIL
        assert not seen.models_with_room, "an image that is late fails no pod"
