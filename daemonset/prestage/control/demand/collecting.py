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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from prestage.api.annotations import ENABLED_LABEL
from prestage.api.brokerage import Template
from prestage.api.nodes import EntryType
from prestage.control.demand.declared import Declaration, Due
from prestage.control.demand.declaring import Declaring, Said
from prestage.control.demand.feasibility import Needs
from prestage.control.demand.floors import Standing
from prestage.control.demand.grouping import Group, Groups, Key, owner_subject
from prestage.control.demand.image_lines import image_question
from prestage.control.demand.once import Once
from prestage.control.demand.pods import PodFacts, facts_of
from prestage.control.demand.records import Known, Line, Question, Records
from prestage.control.demand.schedules import model_line
from prestage.control.demand.sites import Sites
from prestage.control.templates import template_of
from prestage.kube.events import Subject
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object, Resource, metadata_of, name_of, namespace_of, uid_of
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


@dataclass(frozen=True, slots=True)
class _Template:
    """A workload's, whether it has pods now."""

    key: Key
    group: Group


class Collector:
    """Keeps what it read and what it said. One for a planner."""

    def __init__(self) -> None:
        self.sites = Sites()
        self._declaring = Declaring(self.sites)
        self._groups = Groups()
        self._sets, self._stateful_sets = Once(_of_replica_set), Once(_of_stateful_set)
        self._pulling = Once(_stages_images)
        self._records = Records()
        self._marks: dict[Needs, str] = {}
        self._said: dict[Key, _Said] = {}

    def collect(self, mirrors: Mirrors, answers: Mapping[Line, Known] | None = None, *, now: float | None = None) -> Collected:
        """`answers`: what the broker said and no Artifact shows yet. `now` None: what is declared for later is left out."""
        enabled = {name_of(one) for one in mirrors[NAMESPACES] if is_enabled(one)}
        groups = self._look(mirrors, enabled)
        subjects: dict[str, Subject] = {}
        for (template, _), group in groups.items():
            subjects.setdefault(template.uid, group.subject)
        seen = self._records.look(mirrors[ARTIFACTS])
        known = {**(answers or {}), **seen}
        pulls = any(stages for _, stages in self._pulling.look(mirrors[NODE_CACHES]))
        made = _Made(known)
        self._say(made, groups, pulls=pulls)
        for model in mirrors[STAGED_MODELS]:
            if namespace_of(model) in enabled:
                made.ask(Question(namespace_of(model) or "", model_line(model)))
        said = Said() if now is None else self._declaring.declare(mirrors, enabled, _standing_of(groups), now, pulls=pulls)
        for due in said.chosen.dues:
            self._demand_of_due(made, due, said)
        for declaration in said.declarations:
            _keep(made, declaration)
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

    def _look(self, mirrors: Mirrors, enabled: set[str]) -> dict[Key, Group]:
        """Of every template, whether it has pods now."""
        groups = dict(self._groups.look(mirrors[PODS], mirrors[REPLICA_SETS], enabled))
        self.sites.look(mirrors[NODES], self._groups.facts)
        for each, mirror in ((self._sets, mirrors[REPLICA_SETS]), (self._stateful_sets, mirrors[STATEFUL_SETS])):
            for _, one in each.look(seen for seen in mirror if namespace_of(seen) in enabled):
                if one is not None:
                    groups.setdefault(one.key, one.group)
        return groups

    def _say(self, made: _Made, groups: Mapping[Key, Group], *, pulls: bool) -> None:
        """What is said of a group stands as long as all that it was said by is the same."""
        marks = self._marks = {needs: self._marks.get(needs) or _mark(needs) for _, needs in groups}
        before, self._said = self._said, {}
        for key in sorted(groups, key=lambda key: (*_named(key[0]), marks[key[1]])):
            group, said = groups[key], before.get(key)
            by = _By(group, self.sites.turn, self.sites.fitting(key[1]) if group.waiting else None, pulls=pulls)
            if said is not None and said.stands(by, made.known):
                said = said if said.by.fitting is by.fitting else said.refitted(by)
            else:
                fresh = _Made(made.known)
                self._demand_of(fresh, by, key, marks[key[1]])
                if pulls:
                    self._images_of(fresh, by, key, marks[key[1]])
                said = _Said(by, tuple(fresh.found.items()), fresh.demands, fresh.lines, tuple(fresh.questions.values()))
            self._said[key] = said
            made.take(said)

    def _demand_of_due(self, made: _Made, due: Due, said: Said) -> None:
        known = made.known.get(due.asked.question.line)
        if known is None:
            made.ask(due.asked.question)
            made.lines[due.id] = due.asked.question.line
        else:
            made.add(due.asked.question.line, self._declaring.demand(due, known, said))

    def _demand_of(self, made: _Made, by: _By, key: Key, mark: str) -> None:
        (template, needs), group = key, by.group
        facts, fitting = group.facts, by.fitting or {}
        feasible = self.sites.feasible(needs)
        lines = [Line(template.uid, template.hash, model.alias, model.ref) for model in facts.models]
        found = {line: made.find(line) for line in lines}
        sizes = {known.artifact: known.size_bytes for known in found.values() if known is not None}
        for line, known in found.items():
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

    def _images_of(self, made: _Made, by: _By, key: Key, mark: str) -> None:
        """An image is another one for each architecture."""
        (template, needs), group = key, by.group
        facts, fitting = group.facts, by.fitting or {}
        feasible = self.sites.feasible(needs)
        names = feasible if group.starting.keys() <= feasible else feasible.union(group.starting)
        for architecture, there in self.sites.by_architecture(names).items():
            for ref in facts.images.refs:
                question = image_question(facts.namespace, template.uid, template.hash, ref, architecture, facts.images.secrets)
                known = made.find(question.line)
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


@dataclass(frozen=True, slots=True)
class _By:
    """What a group's demand depends on, beside what is known of its artifacts."""

    group: Group
    turn: int
    """Of the sites."""
    fitting: Mapping[str, int] | None
    """Where a pod of it fits now; None: none waits."""
    pulls: bool = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class _Said:
    """Of a group. `found`: what its lines were known to be."""

    by: _By
    found: tuple[tuple[Line, Known | None], ...]
    demands: Mapping[str, Demand]
    lines: Mapping[str, Line]
    questions: tuple[Question, ...]

    def stands(self, by: _By, known: Mapping[Line, Known]) -> bool:
        """Whether the same would be said again, but for where a pod fits: of images that is another thing."""
        mine = self.by
        if mine.group is not by.group or mine.turn != by.turn or mine.pulls != by.pulls:
            return False
        if mine.fitting is not by.fitting and by.pulls:
            return False
        return all(known.get(line) == found for line, found in self.found)

    def refitted(self, by: _By) -> _Said:
        """With where a pod fits now."""
        at = by.fitting or {}
        demands = {name: replace(one, at=at) if one.trust is Trust.WAITING else one for name, one in self.demands.items()}
        return replace(self, by=by, demands=demands)


@dataclass(slots=True)
class _Made:
    known: Mapping[Line, Known]
    demands: dict[str, Demand] = field(default_factory=dict)
    questions: dict[Line, Question] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    found: dict[Line, Known | None] = field(default_factory=dict)
    """What was asked for."""

    def find(self, line: Line) -> Known | None:
        """Which artifact it is."""
        found = self.found[line] = self.known.get(line)
        return found

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

    def take(self, said: _Said) -> None:
        """All of that too."""
        self.demands |= said.demands
        self.lines |= said.lines
        for question in said.questions:
            self.questions.setdefault(question.line, question)


def _keep(made: _Made, declaration: Declaration) -> None:
    """What is kept for it while there is room."""
    for asked in declaration.keeps:
        if (found := made.known.get(asked.question.line)) is not None:
            name = f"{declaration.subject.uid}/keeps/{asked.key}"
            kind = EntryType.IMAGE if asked.architecture else EntryType.MODEL
            one = Demand(name, found.artifact, found.size_bytes, declaration.namespace, Trust.STANDING, kind=kind)
            made.add(asked.question.line, one)


def is_enabled(namespace: Object) -> bool:
    """Opted in, and not on its way out."""
    labels = metadata_of(namespace).get("labels")
    return isinstance(labels, Mapping) and labels.get(ENABLED_LABEL) == "true"


def _standing_of(groups: Mapping[Key, Group]) -> dict[str, Standing]:
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


def _of_replica_set(seen: Object) -> _Template | None:
    facts = _template_facts(seen)
    if facts is None or not facts.models:
        return None
    labels = metadata_of(seen).get("labels")
    reference = {"kind": "ReplicaSet", "name": name_of(seen), "uid": uid_of(seen), "controller": True}
    probe = {"metadata": {"namespace": namespace_of(seen), "labels": labels, "ownerReferences": [reference]}}
    template = template_of(probe, lambda namespace, name: seen)
    if template is None:
        return None
    subject = owner_subject(seen) or Subject.of(REPLICA_SETS, seen)
    return _Template((template, facts.needs), Group(facts, subject))


def _of_stateful_set(seen: Object) -> _Template | None:
    facts, status = _template_facts(seen), seen.get("status")
    revision = status.get("updateRevision") if isinstance(status, Mapping) else None
    if facts is None or not facts.models or not isinstance(revision, str) or not revision:
        return None
    template = Template(uid=uid_of(seen), hash=revision)
    return _Template((template, facts.needs), Group(facts, Subject.of(STATEFUL_SETS, seen)))


def _mark(needs: Needs) -> str:
    """Names them in a demand's id, over restarts too."""
    return f"{zlib.crc32(repr(needs).encode()):08x}"
