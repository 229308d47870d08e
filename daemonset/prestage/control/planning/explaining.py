"""Why a workload's models are not coming: words for the people of its namespace, each once. Pure.

Every sentence has what is wrong, with which model, and what to do next. Nothing of other namespaces is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.api.artifacts import SourceAccess
from prestage.api.nodes import EntryType
from prestage.control.demand.image_lines import is_image, shown
from prestage.control.demand.records import Line
from prestage.control.demand.resolving import Failure
from prestage.control.planning.board import Posted
from prestage.control.planning.lateness import CAUSES_OF_IMAGES, LATE, is_late, mark, sentence
from prestage.control.planning.outcomes import Outcomes
from prestage.control.unreadable import UNREADABLE
from prestage.kube.events import EventType, Said, Subject
from prestage.kube.resources import STAGING_SCHEDULES
from prestage.planner.demands import Demand, Trust
from prestage.planner.plans import Outcome, Reason, Verdict

ACTION: Final = "Staging"
_CAUSES: Final[Mapping[Reason, tuple[str, str]]] = {
    Reason.NO_NODE: (
        "no node on which it may run has a prestage agent and takes pods",
        "compare nodeSelector, affinity, tolerations and requests with the nodes",
    ),
    Reason.TOO_LARGE: (
        "it is larger than the whole store of each node on which it may run",
        "use nodes with a larger store, or ask for another StorePool budget",
    ),
    Reason.NODE_FULL: (
        "what running and waiting pods use fills each node on which it may run",
        "wait until they end, add nodes, or ask for a larger StorePool budget",
    ),
    Reason.NAMESPACE_NODE_BYTES: (
        "the namespace's bytesPerNode would be exceeded",
        "remove other models from the node, or ask for another CachePolicy",
    ),
    Reason.NAMESPACE_BYTES: ("the namespace's bytes would be exceeded", "remove other models, or ask for another CachePolicy"),
    Reason.TOO_MANY: ("its node is asked for as many models as one node may be", "spread the pods over more nodes"),
    Reason.MOVING: ("the last copy of another model is copied to another node first", "nothing: it comes after that"),
}
_STEPS_OF_IMAGES: Final[Mapping[Reason, str]] = {
    Reason.TOO_LARGE: "the kubelet pulls it; use nodes with a larger disk, or a smaller image",
    Reason.NODE_FULL: "the kubelet pulls it; wait until they go, or use nodes with a larger disk",
    Reason.NAMESPACE_NODE_BYTES: "the kubelet pulls it; use smaller images, or ask for another CachePolicy",
    Reason.NAMESPACE_BYTES: "the kubelet pulls it; use smaller images, or ask for another CachePolicy",
    Reason.TOO_MANY: "the kubelet pulls it",
    Reason.MOVING: "nothing: it comes after that",
}
"""What is wrong with an image is said as when it is late."""
_NOT_ALLOWED: Final = frozenset({"NoOriginForImages", "OriginNotAllowed"})
"""Codes: images are staged where an operator lets them be; elsewhere the kubelet pulls as ever, and nothing is wrong."""
_NO_COMPLAINT: Final = frozenset({"Suspended", "NoTemplate"})
_ERROR_STEPS: Final[Mapping[str, str]] = {
    "Denied": "check the credentials, and that they may read this source",
    "NotFound": "check the source and its revision",
    "Misconfigured": "correct the source",
    "Corrupt": "what the origin sent is not what it lists: compare the files there",
    "Full": "make room: the node's disk is full of what is in use",
}
_IMAGE_STEPS: Final[Mapping[str, str]] = {
    "Denied": "check the pull secret, and that it may pull this image",
    "NotFound": "check the image's name and tag",
    "Misconfigured": "correct the image, or the Origin of its registry",
    "Corrupt": "what the registry sent is not what it lists: push it again",
    "Full": "make room on containerd's file system: it is full of what is in use",
}
"""The kubelet pulls it all the same."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing to say about one model of one workload."""

    subject: Subject
    alias: str
    reason: str
    note: str
    mark: str = ""
    """What has to be another before it is said again; empty: reason and note."""

    @property
    def said(self) -> Said:
        """As an event."""
        return Said(self.subject, self.reason, self.note, ACTION, EventType.WARNING)


def complaints(
    posted: Posted,
    models: Mapping[str, Subject],
    outcomes: Outcomes | None = None,
    awaited: Mapping[str, float] | None = None,
) -> list[Complaint]:
    """All that is wrong now. `models`: UID of each StagedModel to what events about it are about. `outcomes`: which windows are
    still to be met. `awaited`: when demands are warm on nodes that are asked for, by their ids."""
    found: dict[tuple[str, str], Complaint] = {}
    told = {due.asked.question.line.uid: due.declaration.subject for due in posted.collected.dues.values()}
    subjects = {**told, **posted.collected.subjects, **models}
    for line, failure in sorted(posted.failures.items()):
        if (subject := subjects.get(line.uid)) is None:
            continue
        is_asked_for = subject.resource is STAGING_SCHEDULES  # else it only comes along with its pods
        if is_asked_for or not is_image(line) or failure.code not in _NOT_ALLOWED:
            found[line.uid, line.alias] = _unresolved(subject, line, failure)
    for line, row in sorted(posted.blocked.items(), key=lambda pair: pair[0]):
        if (subject := subjects.get(line.uid)) is not None:
            found[line.uid, line.alias] = _revoked(subject, line, row, posted.collected.known[line].namespace)
    for demand in posted.collected.demands if posted.withheld else ():
        line = posted.collected.lines[demand.id]
        if demand.artifact in posted.withheld and (subject := subjects.get(line.uid)) is not None:
            found.setdefault((line.uid, line.alias), _withheld(subject, line, posted.broken))
    for one in _declared(posted, outcomes or Outcomes(), awaited or {}):
        found.setdefault((one.subject.uid, one.alias), one)
    for demand in posted.collected.demands:
        if demand.id in posted.collected.dues:
            continue
        verdict, line = posted.plan.verdicts.get(demand.id), posted.collected.lines[demand.id]
        subject = subjects.get(line.uid)
        if verdict is None or subject is None or demand.trust is Trust.STANDING:
            continue
        if (said := _verdict(subject, line, demand, verdict)) is not None:
            found.setdefault((line.uid, line.alias), said)
    return list(found.values())


def _declared(posted: Posted, outcomes: Outcomes, awaited: Mapping[str, float]) -> Iterator[Complaint]:
    """About what was said for later: what is wrong with it, and what will be late, before it is."""
    collected = posted.collected
    for declaration in collected.declarations:
        for problem in declaration.problems:
            if problem.reason not in _NO_COMPLAINT:
                yield Complaint(declaration.subject, f"/{problem.reason}", problem.reason, problem.message)
    demands = {one.id: one for one in collected.demands if one.trust is Trust.DECLARED}
    for name, due in collected.dues.items():
        verdict, demand = posted.plan.verdicts.get(name), demands.get(name)
        is_open = outcomes.is_open(due.declaration.subject.uid, due.opening.begins)
        boots = awaited.get(name)
        if verdict is not None and demand is not None and is_late(due, verdict, is_open=is_open, awaited=boots):
            reason = LATE if verdict.outcome is Outcome.LATE or boots is not None else str(verdict.reason)
            alias = f"{due.want.window}/{due.asked.name}"
            note = sentence(due, demand, verdict, boots)
            yield Complaint(due.declaration.subject, alias, reason, note, mark(verdict, due, boots))


def _unresolved(subject: Subject, line: Line, failure: Failure) -> Complaint:
    what = f"{line.ref} ({failure.error_class}): {failure.text}"
    return Complaint(subject, line.alias, "NotResolved", f"{shown(line)}: {what}")


def _withheld(subject: Subject, line: Line, broken: Mapping[str, str]) -> Complaint:
    said = f"{shown(line)} ({line.ref}): CachePolicy {min(broken)} cannot be read, and nothing new is staged before it can"
    return Complaint(subject, line.alias, "BrokenPolicy", f"{said}; ask an operator")


def unread(subject: Subject, why: str) -> Complaint:
    """For operators."""
    return Complaint(subject, "", UNREADABLE, f"it cannot be read: {why}")


def _revoked(subject: Subject, line: Line, row: SourceAccess, owner: str) -> Complaint:
    """The owner's words are for the owner's people."""
    name = f"{shown(line)} ({line.ref})"
    if subject.namespace == owner:
        said = f"{name} may not be read any more, and is not mounted anew: {row.message}; repair the credentials"
    else:
        said = f"{name} may not be read by its owner any more, and is not mounted anew; ask the people of {owner}"
    return Complaint(subject, line.alias, "AccessRevoked", said)


def _verdict(subject: Subject, line: Line, demand: Demand, verdict: Verdict) -> Complaint | None:
    name = f"{shown(line)} ({line.ref})"
    if demand.kind is EntryType.IMAGE and verdict.reason is Reason.NO_NODE:
        return None  # its nodes stage no images: the kubelet pulls it
    if verdict.error is not None:
        kind, code = verdict.error
        steps = _IMAGE_STEPS if demand.kind is EntryType.IMAGE else _ERROR_STEPS
        step = steps.get(kind, "it is tried again by itself")
        return Complaint(subject, line.alias, "StageFailed", f"{name} could not be staged ({kind}/{code}); {step}")
    if verdict.reason in _CAUSES and verdict.outcome is not Outcome.ON_TIME:
        cause, step = _CAUSES[verdict.reason]
        if demand.kind is EntryType.IMAGE:
            cause, step = CAUSES_OF_IMAGES[verdict.reason], _STEPS_OF_IMAGES[verdict.reason]
        gpus = f", {demand.gpus} accelerators wait" if demand.gpus else ""
        return Complaint(subject, line.alias, str(verdict.reason), f"{name}: {cause}{gpus}; {step}")
    return None
