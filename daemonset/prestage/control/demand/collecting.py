"""From mirrors to demand: what every template of every namespace that is in wants, and what is not resolved yet.

    pod on a node                       BOUND there
    gated by us, or pending             WAITING where it may run
    gated by others too                 nothing is staged before they let it go
    declared for later                  DECLARED (declaring.py), where its pods may run
    template with a pod or replicas     STANDING: what is warm of it stays
    images of the same templates        the same, where nodes stage images: for a pod on a node until its containers run

A model that no record names yet is a question to the broker; until it is answered there is no demand for it. `Collector` keeps
what it read of each object, so that only what changed is read again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prestage.api.annotations import ENABLED_LABEL
from prestage.api.brokerage import Template
from prestage.api.nodes import EntryType
from prestage.control.demand.declared import Declaration, Due
from prestage.control.demand.declaring import Declaring, Said
from prestage.control.demand.feasibility import Needs
from prestage.control.demand.floors import Standing
from prestage.control.demand.image_lines import image_question
from prestage.control.demand.pods import PodFacts, facts_of
from prestage.control.demand.records import Known, Line, Question, recorded
from prestage.control.demand.schedules import model_line
from prestage.control.demand.sites import Sites
from prestage.control.templates import Templates, controller_of, template_of
from prestage.kube.events import Subject
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object, Resource, metadata_of, name_of, namespace_of, uid_of, version_of
from prestage.kube.resources import (
    ARTIFACTS,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PODS,
    REPLICA_SETS,
    STAGED_MODELS,
    STATEFUL_SETS,
)
from prestage.planner.demands import Demand, ToldBy, Trust


class Mirrors(Protocol):
    """`World`, or the mirrors of a test."""

    def __getitem__(self, resource: Resource) -> Mirror: ...


@dataclass(frozen=True, slots=True)
class Collected:
    """All that is wanted now."""

    demands: tuple[Demand, ...] = ()
    questions: tuple[Question, ...] = ()
    lines: Mapping[str, Line] = field(default_factory=dict)
    """Demand's id to what it is about."""
    subjects: Mapping[str, Subject] = field(default_factory=dict)
    """UID of a template's owner to the object that events are about."""
    recorded: Mapping[Line, Known] = field(default_factory=dict)
    """What Artifacts show."""
    declarations: tuple[Declaration, ...] = ()
    """What was said about later, with what is wrong with it."""
    dues: Mapping[str, Due] = field(default_factory=dict)
    """Demand's id to the window it is of."""
    cut: Mapping[str, int] = field(default_factory=dict)
    """UID of who said it to how many demands of it are left out: its namespace has too many."""
    unread: frozenset[str] = frozenset()
    """UIDs of what is not looked at at all: its namespace has too many of its kind."""
    changes_at: float = math.inf
    """When there is other demand, though nothing happened: a window opens or ends."""
    known: Mapping[Line, Known] = field(default_factory=dict)
    """That, and what was answered since."""


@dataclass(slots=True)
class _Group:
    """Pods of one template that need the same of a node; of one alone where nothing else is alike."""

    facts: PodFacts
    bound: dict[str, int] = field(default_factory=dict)
    starting: dict[str, int] = field(default_factory=dict)
    """Of `bound`, those whose images the kubelet has yet to pull: it mounts volumes first."""
    waiting: int = 0
    idle: int = 0
    priority: int = 0


class Collector:
    """Keeps what it read. One for a planner."""

    def __init__(self) -> None:
        self.sites = Sites()
        self._declaring = Declaring(self.sites)
        self._owners = Templates()
        self._facts: dict[str, tuple[str, PodFacts | None]] = {}
        self._templates: dict[str, tuple[str, PodFacts | None]] = {}

    def collect(self, mirrors: Mirrors, answers: Mapping[Line, Known] | None = None, *, now: float | None = None) -> Collected:
        """`answers`: what the broker said and no Artifact shows yet. `now` None: what is declared for later is left out."""
        pods = list(self._read(mirrors[PODS]))
        self.sites.look(mirrors[NODES], (facts for _, facts in pods))
        enabled = {name_of(one) for one in mirrors[NAMESPACES] if is_enabled(one)}
        seen = recorded(mirrors[ARTIFACTS])
        known = {**(answers or {}), **seen}
        sets = mirrors[REPLICA_SETS]
        pulls = any(_stages_images(one) for one in mirrors[NODE_CACHES])
        groups: dict[tuple[Template, Needs], _Group] = {}
        subjects: dict[str, Subject] = {}
        for pod, facts in pods:
            if not facts.models or facts.namespace not in enabled:
                continue
            template = self._owners.of(pod, lambda namespace, name: sets.get(name, namespace))
            if template is None:
                continue
            if template.uid not in subjects:
                subjects[template.uid] = _subject(pod, sets)
            _count(groups.setdefault((template, facts.needs), _Group(facts)), facts)
        for template, facts, subject in self._standing(mirrors, enabled):
            subjects.setdefault(template.uid, subject)
            groups.setdefault((template, facts.needs), _Group(facts))
        made = _Made(known)
        marks = {needs: f"{zlib.crc32(repr(needs).encode()):08x}" for _, needs in groups}
        for (template, needs), group in sorted(groups.items(), key=lambda pair: (*_named(pair[0][0]), marks[pair[0][1]])):
            self._demand_of(made, template, needs, group, marks[needs])
            if pulls:
                self._images_of(made, template, needs, group, marks[needs])
        for model in mirrors[STAGED_MODELS]:
            if namespace_of(model) in enabled:
                made.ask(Question(namespace_of(model) or "", model_line(model)))
        said = Said() if now is None else self._declaring.declare(mirrors, enabled, _standing_of(groups), now, pulls=pulls)
        for due in said.chosen.dues:
            self._demand_of_due(made, due, said)
        for declaration in said.declarations:
            for asked in declaration.keeps:
                if (found := known.get(asked.question.line)) is not None:
                    name = f"{declaration.subject.uid}/keeps/{asked.key}"
                    kind = EntryType.IMAGE if asked.architecture else EntryType.MODEL
                    one = Demand(name, found.artifact, found.size_bytes, declaration.namespace, Trust.STANDING, kind=kind)
                    made.add(asked.question.line, one)
        return Collected(
            tuple(made.demands.values()),
            tuple(made.questions.values()),
            made.lines,
            subjects,
            seen,
            declarations=said.declarations,
            dues={due.id: due for due in said.chosen.dues},
            cut=said.chosen.cut,
            unread=said.unread,
            changes_at=said.chosen.changes_at,
            known=known,
        )

    def _demand_of_due(self, made: _Made, due: Due, said: Said) -> None:
        known = made.known.get(due.asked.question.line)
        if known is None:
            made.ask(due.asked.question)
            made.lines[due.id] = due.asked.question.line
        else:
            made.add(due.asked.question.line, self._declaring.demand(due, known, said))

    def _read(self, pods: Mirror) -> Iterator[tuple[Object, PodFacts]]:
        fresh: dict[str, tuple[str, PodFacts | None]] = {}
        for pod in pods:
            uid, version = uid_of(pod), str(version_of(pod))
            before = self._facts.get(uid)
            entry = before if before is not None and before[0] == version else (version, facts_of(pod))
            fresh[uid] = entry
            if entry[1] is not None:
                yield pod, entry[1]
        self._facts = fresh
        self._owners.forget(fresh)

    def _standing(self, mirrors: Mirrors, enabled: set[str]) -> Iterator[tuple[Template, PodFacts, Subject]]:
        """Templates that are to have pods, whether they have any now."""
        workloads = [*mirrors[REPLICA_SETS], *mirrors[STATEFUL_SETS]]
        read = self._templates = {uid_of(seen): self._template(seen) for seen in workloads if namespace_of(seen) in enabled}
        for seen in mirrors[REPLICA_SETS]:
            _, facts = read.get(uid_of(seen), ("", None))
            if facts is None or not facts.models:
                continue
            labels = metadata_of(seen).get("labels")
            probe = {"metadata": {"namespace": namespace_of(seen), "labels": labels, "ownerReferences": [_reference(seen)]}}
            template = template_of(probe, lambda namespace, name, seen=seen: seen)  # type: ignore[misc]  # bound at once
            if template is not None:
                yield template, facts, _owner_subject(seen) or Subject.of(REPLICA_SETS, seen)
        for seen in mirrors[STATEFUL_SETS]:
            _, facts = read.get(uid_of(seen), ("", None))
            if facts is None or not facts.models:
                continue
            status = seen.get("status")
            revision = status.get("updateRevision") if isinstance(status, Mapping) else None
            if isinstance(revision, str) and revision:
                yield Template(uid=uid_of(seen), hash=revision), facts, Subject.of(STATEFUL_SETS, seen)

    def _template(self, seen: Object) -> tuple[str, PodFacts | None]:
        before, version = self._templates.get(uid_of(seen)), str(version_of(seen))
        return before if before is not None and before[0] == version else (version, _template_facts(seen))

    def _demand_of(self, made: _Made, template: Template, needs: Needs, group: _Group, mark: str) -> None:
        facts = group.facts
        feasible = self.sites.feasible(needs)
        fitting = self.sites.fitting(needs) if group.waiting else {}
        lines = [Line(template.uid, template.hash, model.alias, model.ref) for model in facts.models]
        sizes = {found.artifact: found.size_bytes for line in lines if (found := made.known.get(line)) is not None}
        for line in lines:
            known = made.known.get(line)
            if known is None:
                made.ask(Question(facts.namespace, line, facts.service_account, facts.credentials))
                continue
            beside = {artifact: size for artifact, size in sizes.items() if artifact != known.artifact}
            common = {"namespace": facts.namespace, "feasible": feasible, "priority": group.priority, "beside": beside}
            common["together"] = _together(template, mark)
            if group.bound:
                gpus = group.idle * needs.accelerators
                made.say(line, mark, known, Trust.BOUND, at=group.bound, gpus=gpus, **common)
            if group.waiting:
                made.say(line, mark, known, Trust.WAITING, at=fitting, count=group.waiting, **common)
            made.say(line, mark, known, Trust.STANDING, **common)

    def _images_of(self, made: _Made, template: Template, needs: Needs, group: _Group, mark: str) -> None:
        """An image is another one for each architecture."""
        facts, feasible = group.facts, self.sites.feasible(needs)
        fitting = self.sites.fitting(needs) if group.waiting else {}
        names = feasible if group.starting.keys() <= feasible else feasible.union(group.starting)
        for architecture, there in self.sites.by_architecture(names).items():
            for ref in facts.images.refs:
                question = image_question(facts.namespace, template.uid, template.hash, ref, architecture, facts.images.secrets)
                known = made.known.get(question.line)
                if known is None:
                    made.ask(question)
                    continue
                common = {"namespace": facts.namespace, "feasible": feasible & there, "priority": group.priority}
                common |= {"kind": EntryType.IMAGE, "together": _together(template, mark)}
                if starting := _within(group.starting, there):
                    made.say(question.line, mark, known, Trust.BOUND, at=starting, **common)
                if group.waiting:
                    at = _within(fitting, there)
                    made.say(question.line, mark, known, Trust.WAITING, at=at, count=group.waiting, **common)
                made.say(question.line, mark, known, Trust.STANDING, **common)


@dataclass(slots=True)
class _Made:
    known: Mapping[Line, Known]
    demands: dict[str, Demand] = field(default_factory=dict)
    questions: dict[Line, Question] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)

    def ask(self, question: Question) -> None:
        if question.line not in self.known:
            self.questions.setdefault(question.line, question)

    def say(self, line: Line, mark: str, known: Known, trust: Trust, **more: object) -> None:
        name = f"{line.uid}/{line.hash}/{line.alias}/{mark}/{trust.name.lower()}"
        source = ToldBy.TEMPLATE if trust is Trust.STANDING else ToldBy.POD
        self.add(line, Demand(name, known.artifact, known.size_bytes, trust=trust, source=source, **more))  # type: ignore[arg-type]  # fields of Demand by name

    def add(self, line: Line, demand: Demand) -> None:
        """One more."""
        self.demands[demand.id] = demand
        self.lines[demand.id] = line


def is_enabled(namespace: Object) -> bool:
    """Opted in, and not on its way out."""
    labels = metadata_of(namespace).get("labels")
    return isinstance(labels, Mapping) and labels.get(ENABLED_LABEL) == "true"


def _count(group: _Group, facts: PodFacts) -> None:
    group.priority = max(group.priority, facts.priority)
    if facts.is_bound and facts.takes_room_on is not None:
        group.bound[facts.takes_room_on] = group.bound.get(facts.takes_room_on, 0) + 1
        group.idle += not facts.is_running
        if not facts.is_running:
            group.starting[facts.takes_room_on] = group.starting.get(facts.takes_room_on, 0) + 1
    elif facts.is_waiting:
        group.waiting += 1


def _standing_of(groups: Mapping[tuple[Template, Needs], _Group]) -> dict[str, Standing]:
    """By the UID of the workload."""
    at: dict[str, dict[str, dict[str, int]]] = {}
    waiting: dict[str, dict[str, int]] = {}
    for (template, _), group in groups.items():
        for node, count in group.bound.items():
            found = at.setdefault(template.uid, {}).setdefault(template.hash, {})
            found[node] = found.get(node, 0) + count
        if group.waiting:
            counts = waiting.setdefault(template.uid, {})
            counts[template.hash] = counts.get(template.hash, 0) + group.waiting
    return {uid: Standing(at.get(uid, {}), waiting.get(uid, {})) for uid in at.keys() | waiting.keys()}


def _named(template: Template) -> tuple[str, str]:
    return template.uid, template.hash


def _together(template: Template, mark: str) -> str:
    return f"{template.uid}/{template.hash}/{mark}"


def _within(counts: Mapping[str, int], names: frozenset[str]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name in names}


def _stages_images(cache: Object) -> bool:
    status = cache.get("status")
    return isinstance(status, Mapping) and isinstance(status.get("images"), Mapping)


def _template_facts(workload: Object) -> PodFacts | None:
    """None: it is to have no pods."""
    spec = workload.get("spec")
    template = spec.get("template") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(template, Mapping) or not spec.get("replicas", 1):
        return None
    head = {**metadata_of(template), "namespace": namespace_of(workload), "name": name_of(workload)}
    return facts_of({**template, "metadata": head})


def _reference(seen: Object) -> dict[str, object]:
    return {"kind": "ReplicaSet", "name": name_of(seen), "uid": uid_of(seen), "controller": True}


def _subject(pod: Object, sets: Mirror) -> Subject:
    """The workload that people know: the Deployment, not its ReplicaSet; the pod where it is by itself."""
    controller = controller_of(pod)
    if controller is not None and controller.get("kind") == "ReplicaSet":
        found = sets.get(str(controller.get("name", "")), namespace_of(pod))
        if found is not None:
            return _owner_subject(found) or Subject.of(REPLICA_SETS, found)
    return _owner_subject(pod) or Subject.of(PODS, pod)


def _owner_subject(seen: Object) -> Subject | None:
    controller = controller_of(seen)
    if controller is None or controller.get("kind") == "Node":
        return None
    kind = str(controller.get("kind", ""))
    resource = Resource(str(controller.get("apiVersion", "v1")), f"{kind.lower()}s", kind)
    return Subject(resource, str(controller.get("name", "")), namespace_of(seen), str(controller.get("uid", "")))
