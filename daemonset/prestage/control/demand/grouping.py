"""Pods of one template that need the same of a node, counted: what did not change since the last look is not counted again. Pure.

    pod ─▶ row: what it says, and its template     read once for each object, anew where its ReplicaSet is another
    rows ─▶ group                                  counted anew where a pod of it came, went or changed

Of pods that do not say the same though they are of one template, the one of the least name speaks for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from prestage.api.brokerage import Template
from prestage.control.demand.feasibility import Needs
from prestage.control.demand.pods import PodFacts, facts_of
from prestage.control.templates import controller_of, template_of
from prestage.kube.events import Subject
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object, Resource, namespace_of
from prestage.kube.resources import PODS, REPLICA_SETS

Key = tuple[Template, Needs]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The same object as long as nothing of it changed. `facts`: what its pods say."""

    facts: PodFacts
    subject: Subject
    bound: Mapping[str, int] = field(default_factory=dict)
    """Pods by their nodes."""
    starting: Mapping[str, int] = field(default_factory=dict)
    """Of `bound`, those whose images the kubelet has yet to pull: it mounts volumes first."""
    waiting: int = 0
    idle: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """A pod that wants models, of a template that is known."""

    key: Key
    facts: PodFacts
    subject: Subject


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    pod: Object
    facts: PodFacts | None
    """None: it has ended."""
    owner: tuple[str, str] | None
    """Name and namespace of its ReplicaSet."""
    set: Object | None
    """As that was seen when this was read."""
    member: _Member | None


class Groups:
    """Keeps what it read. One for a collector."""

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}
        self._sets: dict[tuple[str, str], Object | None] = {}
        self._members: dict[Key, dict[int, _Member]] = {}
        self._groups: dict[Key, Group] = {}
        self._enabled: Set[str] = frozenset()

    @property
    def facts(self) -> Iterator[PodFacts]:
        """Of all pods that have not ended, whoever's; the same object as long as its pod is."""
        return (row.facts for row in self._rows.values() if row.facts is not None)

    def look(self, pods: Iterable[Object], sets: Mirror, enabled: Set[str]) -> Mapping[Key, Group]:
        """As it is now. `sets`: ReplicaSets; `enabled`: namespaces that are in. Valid until the next look."""
        stale = {owner for owner, seen in self._sets.items() if sets.get(*owner) is not seen}
        known, fresh, came, went = self._rows, dict[int, _Row](), list[_Row](), list[_Row]()
        for pod in pods:
            row = known.get(id(pod))  # a row holds its pod: no other object can have that id
            if row is None or (stale and row.owner in stale):
                went += [] if row is None else [row]
                row = _read(pod, facts_of(pod) if row is None else row.facts, sets)
                came.append(row)
            fresh[id(pod)] = row
        went += [known[place] for place in known.keys() - fresh.keys()]
        self._rows = fresh
        for owner in stale:
            del self._sets[owner]
        self._sets |= {row.owner: row.set for row in came if row.owner is not None}
        if enabled != self._enabled:
            self._enabled, self._members, self._groups = frozenset(enabled), {}, {}
            came, went = list(fresh.values()), []
        self._count(came, went)
        return self._groups

    def _count(self, came: Iterable[_Row], went: Iterable[_Row]) -> None:
        touched = set[Key]()
        for one in (row.member for row in went):
            if one is not None and self._members.get(one.key, {}).pop(id(one), None) is not None:
                touched.add(one.key)
        for one in (row.member for row in came):
            if one is not None and one.facts.namespace in self._enabled:
                self._members.setdefault(one.key, {})[id(one)] = one
                touched.add(one.key)
        for key in touched:
            if there := self._members[key]:
                self._groups[key] = _counted(there.values())
            else:
                del self._members[key], self._groups[key]


def _read(pod: Object, facts: PodFacts | None, sets: Mirror) -> _Row:
    controller, owner = controller_of(pod), None
    if controller is not None and controller.get("kind") == REPLICA_SETS.kind:
        owner = str(controller.get("name", "")), namespace_of(pod) or ""
    found = sets.get(*owner) if owner is not None else None
    template = template_of(pod, lambda namespace, name: found) if facts is not None and facts.models else None
    member = None
    if facts is not None and template is not None:
        member = _Member((template, facts.needs), facts, _subject(pod, found))
    return _Row(pod, facts, owner, found, member)


def _counted(members: Collection[_Member]) -> Group:
    bound, starting = dict[str, int](), dict[str, int]()
    waiting = idle = priority = 0
    for facts in (one.facts for one in members):
        priority = max(priority, facts.priority)
        if facts.is_bound and (node := facts.takes_room_on) is not None:
            bound[node] = bound.get(node, 0) + 1
            if not facts.is_running:
                idle += 1
                starting[node] = starting.get(node, 0) + 1
        elif facts.is_waiting:
            waiting += 1
    first = min(members, key=lambda one: one.facts.name)
    return Group(first.facts, first.subject, bound, starting, waiting, idle, priority)


def _subject(pod: Object, owner: Object | None) -> Subject:
    """The workload that people know: the Deployment, not its ReplicaSet; the pod where it is by itself."""
    if owner is not None:
        return owner_subject(owner) or Subject.of(REPLICA_SETS, owner)
    return owner_subject(pod) or Subject.of(PODS, pod)


def owner_subject(seen: Object) -> Subject | None:
    """Who made it and looks after it."""
    controller = controller_of(seen)
    if controller is None or controller.get("kind") == "Node":
        return None
    kind = str(controller.get("kind", ""))
    resource = Resource(str(controller.get("apiVersion", "v1")), f"{kind.lower()}s", kind)
    return Subject(resource, str(controller.get("name", "")), namespace_of(seen), str(controller.get("uid", "")))
