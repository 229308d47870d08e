"""Why something declared will be late, and what would help: words for people of its namespace. Pure.

"window day of 2026-11-27T08:00:00Z: model llama will be late by 8.0 s because 1 GB takes longer than is left; say it earlier"
"""

from __future__ import annotations

import datetime
from typing import Final

from prestage.api.nodes import EntryType
from prestage.cacher.quantities import human_bytes, human_seconds
from prestage.control.demand.declared import Due
from prestage.planner.demands import Demand
from prestage.planner.plans import Fix, Outcome, Reason, Remedy, Verdict

LATE: Final = "Late"
CAUSES: Final = {
    Reason.NO_NODE: "no node on which it may run has a prestage agent and takes pods",
    Reason.TOO_LARGE: "it is larger than the whole store of each node on which it may run",
    Reason.NODE_FULL: "what is surer fills each node on which it may run",
    Reason.NAMESPACE_NODE_BYTES: "the namespace's bytesPerNode would be exceeded",
    Reason.NAMESPACE_BYTES: "the namespace's bytes would be exceeded",
    Reason.NAMESPACE_PINNED: "what the namespace declares would exceed its pinned bytes",
    Reason.TOO_MANY: "its nodes are asked for as many models as one node may be",
    Reason.MOVING: "the last copy of another model is copied to another node first",
    Reason.TOO_SOON: "its bytes take longer than what is left",
    Reason.LINK_BUSY: "its nodes have other stages before it",
    Reason.ORIGIN_BUSY: "what all nodes together may take from the origins goes to others before it",
    Reason.TOO_FEW_NODES: "too few nodes have room for it",
    Reason.RETRYING: "the last attempt failed, and is made again",
    Reason.STAGE_FAILED: "staging failed",
}
CAUSES_OF_IMAGES: Final = {
    **CAUSES,
    Reason.NO_NODE: "no node on which it may run stages images (chart: images.enabled)",
    Reason.TOO_LARGE: "it is larger than what images may take of containerd's file system on each node on which it may run",
    Reason.NODE_FULL: "images that are surer fill containerd's file system on each node on which it may run",
    Reason.TOO_MANY: "its nodes are asked for as many models and images as one node may be",
    Reason.MOVING: "the last copy of another image is copied to another node first",
}
_BOOT_SLACK_S: Final = 5.0
"""A boot is no clockwork."""
_LASTING: Final = frozenset({Reason.TOO_FEW_NODES, Reason.STAGE_FAILED, Reason.RETRYING})


def is_late(due: Due, verdict: Verdict, *, is_open: bool, awaited: float | None = None) -> bool:
    """Whether it is known that it will not be there in time. `is_open`: its deadline still counts; what is wanted always, or was
    met once, cannot be late, only short of something. `awaited`: when it is warm on nodes that are asked for."""
    if awaited is not None:
        return is_open and due.ready_by is not None and awaited > due.ready_by + _BOOT_SLACK_S
    if verdict.outcome is Outcome.IMPOSSIBLE:
        return True
    if verdict.outcome is not Outcome.LATE:
        return False
    if due.ready_by is None or not is_open:
        return verdict.reason in _LASTING
    return verdict.late_by_s is not None or verdict.reason in CAUSES


def sentence(due: Due, demand: Demand, verdict: Verdict, awaited: float | None = None) -> str:
    """What is said in events and in the status. `awaited`: as above."""
    window = f"window {due.want.window}" + (f" of {moment(due.ready_by)}" if due.ready_by is not None else "")
    what = "image" if demand.kind is EntryType.IMAGE else "model"
    if awaited is not None and due.ready_by is not None:
        late = human_seconds(max(0.0, awaited - due.ready_by))
        why = f"nodes that are asked for have to boot, and then fetch {human_bytes(demand.size_bytes)}"
        return f"{window}: {what} {due.asked.name} will be late by {late} because {why}; say it {late} earlier"
    if verdict.outcome is Outcome.IMPOSSIBLE:
        how = "will not be there"
    elif due.ready_by is None:
        how = "is not where it should be"
    elif not verdict.late_by_s:
        how = "will be late"
    else:
        how = f"will be late by {human_seconds(verdict.late_by_s)}"
    helps = f"; {remedy(verdict.fix, demand.kind)}" if verdict.fix is not None else ""
    return f"{window}: {what} {due.asked.name} {how} because {cause(demand, verdict)}{helps}"


def cause(demand: Demand, verdict: Verdict) -> str:
    """Why."""
    causes = CAUSES_OF_IMAGES if demand.kind is EntryType.IMAGE else CAUSES
    if verdict.error is not None:
        return f"{causes.get(verdict.reason, 'staging failed')} ({'/'.join(filter(None, verdict.error))})"
    if verdict.reason in (Reason.TOO_SOON, Reason.STAGING):
        return f"{human_bytes(demand.size_bytes)} take longer than what is left, at the measured rate"
    missing = f" ({verdict.missing} missing)" if verdict.missing else ""
    return causes.get(verdict.reason, str(verdict.reason)) + missing


def remedy(fix: Fix, kind: EntryType = EntryType.MODEL) -> str:
    """What would help. Names of nodes are not told: events are read by tenants."""
    amount = fix.amount
    match fix.remedy:
        case Remedy.NOTICE:
            return "say it earlier" if amount is None else f"say it {human_seconds(amount)} earlier"
        case Remedy.RATE:
            return "use nodes with a faster link" + ("" if amount is None else f": {human_bytes(amount)}/s would do")
        case Remedy.ORIGIN_RATE:
            return "ask for more from the origins" + ("" if amount is None else f": {human_bytes(amount)}/s would do")
        case Remedy.ROOM:
            room = "ask for a larger StorePool budget" if kind is EntryType.MODEL else "ask for a larger disk for containerd"
            return room + ("" if amount is None else f": {human_bytes(amount)} more on one node")
        case Remedy.NODES:
            return "add nodes" + ("" if amount is None else f": {amount:.0f} more")
        case Remedy.QUOTA:
            return "ask for another CachePolicy" + ("" if amount is None else f": {human_bytes(amount)} more")
        case Remedy.SOURCE:
            return "check the source, and what may read it"


def moment(seconds: float) -> str:
    """In UTC, to the second."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def mark(verdict: Verdict, due: Due, awaited: float | None = None) -> str:
    """What has to be another before it is said again: the reason, or a lateness that doubled."""
    late_s = verdict.late_by_s or 0.0
    if awaited is not None:
        return f"Booting {int(max(0.0, awaited - (due.ready_by or awaited))).bit_length()}"
    return f"{verdict.outcome} {verdict.reason} {int(late_s).bit_length()}"
