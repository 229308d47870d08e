"""From mirrors to demand: what every template of every namespace that is in wants, and what is not resolved yet.

    pod on a node                       BOUND there
    gated by us, or pending             WAITING where it may run
    gated by others too                 nothing is staged before they let it go
    template with a pod or replicas     STANDING: what is warm of it stays

A model that no record names yet is a question to the broker; until it is answered there is no demand for it. `Collector` keeps
what it read of each object, so that only what changed is read again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from prestage.api.annotations import ENABLED_LABEL
from prestage.api.brokerage import Template
from prestage.control.demand.feasibility import Needs
from prestage.control.demand.pods import PodFacts, facts_of
from prestage.control.demand.records import Known, Line, recorded
from prestage.control.demand.sites import Sites
from prestage.control.templates import controller_of, template_of
from prestage.kube.events import Subject
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object, Resource, metadata_of, name_of, namespace_of, uid_of, version_of
from prestage.kube.resources import (
    ARTIFACTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICA_SETS,
    STAGED_MODELS,
    STATEFUL_SETS,
)
from prestage.planner.demands import Demand, Trust

MODEL_ALIAS: Final = "model"
"""Alias under which a StagedModel's own artifact is recorded: uid its UID, hash its generation, ref `ref:NAME`."""


class Mirrors(Protocol):
    """`World`, or the mirrors of a test."""

    def __getitem__(self, resource: Resource) -> Mirror: ...


@dataclass(frozen=True, slots=True)
class Question:
    """What the broker has to be asked."""

    namespace: str
    line: Line
    service_account: str = "default"
    credentials: str | None = None


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
    known: Mapping[Line, Known] = field(default_factory=dict)
    """That, and what was answered since."""


@dataclass(slots=True)
class _Group:
    """Pods of one template that need the same of a node; of one alone where nothing else is alike."""

    facts: PodFacts
    bound: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    idle: int = 0
    priority: int = 0


class Collector:
    """Keeps what it read. One for a planner."""

    def __init__(self) -> None:
        self.sites = Sites()
        self._facts: dict[str, tuple[str, PodFacts | None]] = {}
        self._templates: dict[str, tuple[str, PodFacts | None]] = {}

    def collect(self, mirrors: Mirrors, answers: Mapping[Line, Known] | None = None) -> Collected:
        """`answers`: what the broker said and no Artifact shows yet."""
        pods = list(self._read(mirrors[PODS]))
        self.sites.look(mirrors[NODES], (facts for _, facts in pods))
        enabled = {name_of(one) for one in mirrors[NAMESPACES] if is_enabled(one)}
        seen = recorded(mirrors[ARTIFACTS])
        known = {**(answers or {}), **seen}
        sets = mirrors[REPLICA_SETS]
        groups: dict[tuple[Template, Needs], _Group] = {}
        subjects: dict[str, Subject] = {}
        for pod, facts in pods:
            if not facts.models or facts.namespace not in enabled:
                continue
            template = template_of(pod, lambda namespace, name: sets.get(name, namespace))
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
        for model in mirrors[STAGED_MODELS]:
            if namespace_of(model) in enabled:
                made.ask(Question(namespace_of(model) or "", model_line(model)))
        return Collected(tuple(made.demands.values()), tuple(made.questions.values()), made.lines, subjects, seen, known)

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
        for model in facts.models:
            line = Line(template.uid, template.hash, model.alias, model.ref)
            known = made.known.get(line)
            if known is None:
                made.ask(Question(facts.namespace, line, facts.service_account, facts.credentials))
                continue
            common = {"namespace": facts.namespace, "feasible": feasible, "priority": group.priority}
            if group.bound:
                gpus = group.idle * needs.accelerators
                made.say(line, mark, known, Trust.BOUND, at=group.bound, gpus=gpus, **common)
            if group.waiting:
                made.say(line, mark, known, Trust.WAITING, at=fitting, count=group.waiting, **common)
            made.say(line, mark, known, Trust.STANDING, **common)


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
        self.demands[name] = Demand(name, known.artifact, known.size_bytes, trust=trust, **more)  # type: ignore[arg-type]
        self.lines[name] = line


def is_enabled(namespace: Object) -> bool:
    """Opted in, and not on its way out."""
    labels = metadata_of(namespace).get("labels")
    return isinstance(labels, Mapping) and labels.get(ENABLED_LABEL) == "true"


def model_line(model: Object) -> Line:
    """Of a StagedModel: another generation is another question."""
    generation = metadata_of(model).get("generation", 1)
    return Line(uid_of(model), str(generation), MODEL_ALIAS, f"ref:{name_of(model)}")


def _count(group: _Group, facts: PodFacts) -> None:
    group.priority = max(group.priority, facts.priority)
    if facts.is_bound and facts.takes_room_on is not None:
        group.bound[facts.takes_room_on] = group.bound.get(facts.takes_room_on, 0) + 1
        group.idle += not facts.is_running
    elif facts.is_waiting:
        group.waiting += 1


def _named(template: Template) -> tuple[str, str]:
    return template.uid, template.hash


def _template_facts(workload: Object) -> PodFacts | None:
    """None: it is to have no pods."""
    spec = workload.get("spec")
    template = spec.get("template") if isinstance(spec, Mapping) else None
    if not isinstance(template, Mapping):
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
