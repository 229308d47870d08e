"""From the planners' decision log to sentences: why it was cold, why it is still here, why it went and when it comes back. Pure.

A question of a namespace is answered in its own names: who else wants an artifact is "another namespace", never which, and
nothing is told of artifacts that the namespace has not.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prestage.api.nodes import Action, NodeCache, State
from prestage.cacher.quantities import human_seconds
from prestage.planner.decisions import Because, Decided, Decision
from prestage.planner.demands import ToldBy
from prestage.planner.plans import Reason

_SOON_S: Final = 5.0
"""A pod that was made and the plan that follows are not two moments."""
_SAID_BY: Final[Mapping[str, str]] = {
    ToldBy.POD: "a pod",
    ToldBy.TEMPLATE: "its template, of which more pods may come",
    ToldBy.READY_SCHEDULE: "a ready-schedule",
    ToldBy.STAGING_SCHEDULE: "a StagingSchedule",
    ToldBy.CRON_JOB: "the next run of a CronJob",
    ToldBy.AUTOSCALER: "the floor of an autoscaler",
    ToldBy.ROLLOUT: "a rollout",
    ToldBy.FOLLOW_ON: "a burst that has begun",
    ToldBy.NEW_NODE: "a new node",
    Because.USED: "how often it was started for its size",
}
_WENT: Final[Mapping[str, str]] = {
    Because.ROOM: "nothing in the plan kept it, and room was needed for what was to be staged",
    Because.UNPLANNED: "nothing in the plan kept it: it was let go of by hand, or others filled the disk",
    Because.LOST: "though the plan wanted it: it was let go of by hand, found damaged, or the store was lost",
    Because.NODE_GONE: "the node is gone",
    Because.UNSEEN: "while no planner was looking",
}
_DROPPED: Final[Mapping[str, str]] = {
    Because.NOT_WANTED: "nobody asks for it",
    Because.NO_ROOM: "what comes before it takes the room",
}
_LATE: Final[Mapping[str, str]] = {
    Reason.STAGING: "nothing had begun it in time",
    Reason.RETRYING: "an attempt failed, and was made again",
    Reason.STAGE_FAILED: "staging failed",
    Reason.MOVING: "the last copy of something else was copied to another node first",
    Reason.NO_NODE: "no node on which it may run had an agent and took pods",
    Reason.TOO_LARGE: "it is larger than all the room of each node on which it may run",
    Reason.NODE_FULL: "what was surer filled each node on which it may run",
    Reason.TOO_SOON: "its bytes took longer than what was left",
    Reason.LINK_BUSY: "its node had other stages before it",
    Reason.ORIGIN_BUSY: "what all nodes may take from the origins went to others first",
    Reason.TOO_FEW_NODES: "too few nodes had room for it",
    Reason.NAMESPACE_BYTES: "the namespace's bytes would have been exceeded",
    Reason.NAMESPACE_NODE_BYTES: "the namespace's bytesPerNode would have been exceeded",
    Reason.NAMESPACE_PINNED: "the namespace's pinned bytes would have been exceeded",
    Reason.TOO_MANY: "more was asked for than is planned",
}
SAY_IT: Final = "prestage.dev/ready-schedule on its workload, or a StagingSchedule, has it there before the next one"


@dataclass(frozen=True, slots=True)
class Recall:
    """The log, and who asks. `namespace` None: an operator about a node, who may hear every name."""

    decisions: Sequence[Decision]
    """Oldest first."""
    namespace: str | None
    now: float
    begins: float | None = None
    """When the log does; None: with the first of these."""

    @property
    def starts(self) -> float | None:
        """When the log does; None: it is empty."""
        return self.begins if self.begins is not None or not self.decisions else self.decisions[0].at

    def about(self, artifact: str, node: str | None = None) -> list[Decision]:
        """Of an artifact, on one node or on any; with what befell the node as a whole."""
        return [one for one in self.decisions if _is_about(one, artifact, node)]

    def whose(self, one: Decision) -> str:
        """Who wanted it, as far as the asker may hear."""
        if not one.namespace:
            return ""
        if self.namespace is None:
            return f"{one.by} in {one.namespace}" if one.by else f"namespace {one.namespace}"
        return one.by if one.namespace == self.namespace else "another namespace"

    def wanted(self, one: Decision) -> str:
        """For whom, and by what it was said."""
        said, whose = _SAID_BY.get(one.because, one.because), self.whose(one)
        return ", ".join(filter(None, (f"for {whose}" if whose else "", f"by {said}" if said else "")))


def cold(recall: Recall, artifact: str, node: str, made: float) -> list[str]:
    """Why it was not on `node` when a pod of it came there, and what became of it; `made`: when the pod was made. Nothing where
    it was there."""
    found = missed(recall, artifact, node, made)
    return [*found, *_after(recall.about(artifact, node), node, made), *_lateness(recall, artifact, made)] if found else []


def missed(recall: Recall, artifact: str, node: str, made: float) -> list[str]:
    """Why it was not there."""
    before = [one for one in recall.about(artifact, node) if one.at <= made]
    state = next((one for one in reversed(before) if one.what in (Decided.WARM, Decided.GONE)), None)
    if state is not None and state.what is Decided.WARM:
        return []
    found = list(_before(recall, before, state, node, made))
    if found:
        return found
    starts = recall.starts
    if starts is None or starts > made:
        begins = f"begins at {clock(starts)}" if starts is not None else "is empty"
        return [f"what was decided before the pod was made is not known: the decision log {begins}"]
    return [f"nobody had said that it would be wanted on {node}: the pod was the first sign; {SAY_IT}"]


def _before(recall: Recall, before: Sequence[Decision], gone: Decision | None, node: str, made: float) -> Iterator[str]:
    since = gone.at if gone is not None else float("-inf")
    if gone is not None:
        yield f"{node} had it until {clock(gone.at)}: {_WENT.get(gone.because, gone.because)}"
        dropped = next((one for one in reversed(before) if one.what is Decided.RELEASE and one.at <= since), None)
        if dropped is not None:
            because = _DROPPED.get(dropped.because, dropped.because)
            yield f"{node} was told at {clock(dropped.at)} that it need not stay: {because}"
    later = [one for one in before if one.at > since]
    for one in later:
        if one.what is Decided.FAILED:
            yield f"staging it on {node} failed at {clock(one.at)}: {one.because}"
    begun = next((one for one in later if one.what is Decided.STAGE), None)
    if begun is not None:
        yield f"{node} was told to stage it {human_seconds(made - begun.at)} before the pod was made, {recall.wanted(begun)}"
    elif gone is not None:
        yield f"nothing asked for it again before the pod came; {SAY_IT}"


def _after(story: Sequence[Decision], node: str, made: float) -> Iterator[str]:
    after = [one for one in story if one.at > made]
    begun = next((one for one in after if one.what is Decided.STAGE), None)
    if begun is not None:
        yield f"{node} was told to stage it {human_seconds(begun.at - made)} after the pod was made"
    for one in after:
        if one.what is Decided.FAILED:
            yield f"staging it on {node} failed at {clock(one.at)}: {one.because}"
    warm = next((one for one in after if one.what is Decided.WARM), None)
    if warm is not None:
        at_most = " at the latest" if warm.because == Because.UNSEEN else ""
        yield f"it was warm on {node} {human_seconds(warm.at - made)} after the pod was made{at_most}"


def _lateness(recall: Recall, artifact: str, made: float) -> list[str]:
    """What was said of it in this namespace around then, the last one."""
    said = [
        one
        for one in recall.about(artifact)
        if one.what is Decided.LATE and one.namespace == recall.namespace and made - 86_400 <= one.at <= made + 600
    ]
    return [late_words(said[-1])] if said else []


def late_words(one: Decision) -> str:
    """A lateness that was foreseen."""
    reason, _, error = one.because.partition("/")
    why = _LATE.get(reason, reason) + (f" ({error})" if error else "")
    by = f", {human_seconds(one.late_s)} late" if one.late_s else ""
    wanted = f" wanted ready by {clock(one.ready_by)}" if one.ready_by is not None else ""
    return f"at {clock(one.at)} the planner said{f' of {one.by}' if one.by else ''}{wanted}{by}: {why}"


def stays(recall: Recall, artifact: str, cache: NodeCache) -> str:
    """Why a node that holds it still does."""
    node = cache.metadata.name
    planned = {one.digest: one for one in cache.spec.artifacts or ()}
    one = planned.get(artifact)
    if not planned:
        return f"it is on {node}, whose plan says nothing: nothing is evicted there"
    if one is None or one.action is Action.RELEASE:
        last = _last(recall, artifact, node, Decided.RELEASE)
        since = f" since {clock(last.at)}: {_DROPPED.get(last.because, last.because)}" if last is not None else ""
        first = "first " if one is not None else ""
        return f"it is on {node}, and need not stay{since}; it goes {first}when room is needed, and none was yet"
    word = "wants" if one.action is Action.STAGE else "keeps"
    last = _last(recall, artifact, node, Decided.STAGE if one.action is Action.STAGE else Decided.KEEP)
    why = f" since {clock(last.at)}, {recall.wanted(last)}" if last is not None else ""
    by = f", ready by {one.ready_by:%Y-%m-%dT%H:%M:%SZ}" if one.ready_by is not None else ""
    return f"it is on {node}, whose plan {word} it there{why}{by}"


def went(recall: Recall, artifact: str, caches: Iterable[NodeCache]) -> list[str]:
    """Where it was and is no more, why, and whether it comes back there."""
    by_name = {cache.metadata.name: cache for cache in caches}
    last: dict[str, Decision] = {}
    for one in recall.about(artifact):
        if one.what in (Decided.WARM, Decided.GONE):
            last |= {node: one for node in one.nodes if one.artifact or node in last}
    found = list[str]()
    for node, one in sorted(last.items(), key=lambda pair: (-pair[1].at, pair[0])):
        cache = by_name.get(node)
        if one.what is not Decided.GONE or (cache is not None and holds(cache, artifact)):
            continue
        back = _back(recall, artifact, node, cache)
        found.append(f"{node} had it until {clock(one.at)}: {_WENT.get(one.because, one.because)}{f'; {back}' if back else ''}")
    return found


def _back(recall: Recall, artifact: str, node: str, cache: NodeCache | None) -> str:
    planned = [one for one in (cache.spec.artifacts if cache is not None else None) or () if one.digest == artifact]
    if planned and planned[0].action is Action.STAGE:
        return "it is being staged there again"
    said = [one for one in recall.about(artifact, node) if one.what in (Decided.PLANNED, Decided.STAGE, Decided.RELEASE)]
    if said and said[-1].what is Decided.PLANNED and (said[-1].begins or 0.0) > recall.now:
        one = said[-1]
        by = f", to be ready by {clock(one.ready_by)}" if one.ready_by is not None else ""
        return f"it comes back there: staging begins at {clock(one.begins or 0.0)} at the latest{by}, {recall.wanted(one)}"
    return ""


def returns(recall: Recall, artifact: str) -> str:
    """When something next wants it, as far as it was said to the planner."""
    ahead = list[Decision]()
    for one in recall.about(artifact):
        if one.what is Decided.RELEASE and one.because == Because.NOT_WANTED:
            ahead.clear()
        elif one.ready_by is not None and one.ready_by > recall.now and one.namespace in (recall.namespace, ""):
            ahead.append(one)
    if not ahead:
        return f"nothing says when it will be wanted next: it comes back with its next pod; {SAY_IT}"
    one = min(ahead, key=lambda one: one.ready_by or 0.0)
    return f"it is wanted next at {clock(one.ready_by or 0.0)}, {recall.wanted(one)}"


def holds(cache: NodeCache, artifact: str) -> bool:
    """Whole, whatever is planned for it."""
    held = (cache.status.artifacts if cache.status is not None else None) or ()
    return any(one.digest == artifact and one.state in (State.WARM, State.RELEASING) for one in held)


def clock(moment: float) -> str:
    """In UTC, to the second."""
    try:
        return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "a time that no calendar has"


def _last(recall: Recall, artifact: str, node: str, what: Decided) -> Decision | None:
    return next((one for one in reversed(recall.about(artifact, node)) if one.what is what), None)


def _is_about(one: Decision, artifact: str, node: str | None) -> bool:
    if one.artifact not in (artifact, ""):
        return False
    may_be_more = one.more > 0 and one.what in (Decided.STAGE, Decided.KEEP, Decided.PLANNED)
    return node is None or node in one.nodes or may_be_more


class Stories:
    """What was decided of each artifact, for many questions to one log."""

    def __init__(self, decisions: Iterable[Decision]) -> None:
        self._of_nodes = list[Decision]()
        self._of_artifacts: dict[str, list[Decision]] = {}
        self._begins: float | None = None
        for one in decisions:
            self._begins = one.at if self._begins is None else self._begins
            if one.artifact:
                self._of_artifacts.setdefault(one.artifact, list(self._of_nodes)).append(one)
                continue
            self._of_nodes.append(one)
            for story in self._of_artifacts.values():
                story.append(one)

    def of(self, artifact: str, namespace: str, now: float) -> Recall:
        """As `namespace` may hear it."""
        return Recall(self._of_artifacts.get(artifact, ()), namespace, now, self._begins)
