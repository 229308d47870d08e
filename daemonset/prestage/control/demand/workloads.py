"""Workloads as those see them who plan for later: whose next pods, of which template, what they need, how many. Pure.

    Deployment       its newest ReplicaSet's hash, once that shows the template's models
    StatefulSet      its update revision, once the status is about this generation
    CronJob          its UID and `run` for models that cannot move, else <UID>.<day> and `-`: each Job resolves by itself,
                     and this foretells it; like a Job's, such a record is forgotten when its day is over

A schedule may stand on the workload or on its template; what stands on the workload wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from prestage.api.annotations import Mistakes, ReadySchedule, is_ours, parse
from prestage.api.brokerage import Template
from prestage.control.demand.once import Once
from prestage.control.demand.pods import PodFacts, WantedModel, facts_of
from prestage.control.demand.trimming import REVISION
from prestage.control.templates import NO_HASH, controller_of
from prestage.kube.events import Subject
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Object, Resource, metadata_of, name_of, namespace_of, uid_of, version_of
from prestage.kube.resources import CRON_JOBS, DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS

_PINNED: Final = re.compile(r"ref:.*|.*@(?:[0-9a-f]{40}|sha256:[0-9a-f]{64})|.*\?versionId=.*", re.ASCII)
_RUN: Final = "run"
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Workload:
    """One of them. `facts`: of its template, read as a pod that waits."""

    subject: Subject
    facts: PodFacts
    replicas: int
    schedule: ReadySchedule | None = None
    mistakes: tuple[str, ...] = ()
    """What is wrong with its annotations."""
    priority_class: str = ""
    is_current: bool = True
    """The status is about this generation."""

    @property
    def namespace(self) -> str:
        """Its own."""
        return self.facts.namespace

    @property
    def uid(self) -> str:
        """Its own."""
        return self.subject.uid


@dataclass(frozen=True, slots=True)
class _Read:
    """Of one object. `revision`: of a StatefulSet's pods that come now."""

    name: str
    uid: str
    workload: Workload | None
    revision: str


@dataclass(frozen=True, slots=True)
class _Set:
    """A ReplicaSet of a Deployment, by its UID."""

    above: str
    revision: int


class Workloads:
    """All of them; what did not change is not read again. Call `look` first."""

    def __init__(self) -> None:
        self._read = {one: Once(partial(_read, one)) for one in (DEPLOYMENTS, STATEFUL_SETS, CRON_JOBS)}
        self._sets = Once(_set)
        self._by_name: dict[tuple[str, str, str], Workload] = {}
        self._newest: dict[str, Object] = {}
        self._revisions: dict[str, str] = {}
        self._models: dict[str, tuple[str, tuple[WantedModel, ...]]] = {}

    def look(self, mirrors: Mapping[Resource, Mirror], enabled: set[str]) -> None:
        """`mirrors`: of the three kinds, and of ReplicaSets."""
        self._by_name, self._revisions = {}, {}
        for resource, once in self._read.items():
            for _, read in once.look(seen for seen in mirrors[resource] if namespace_of(seen) in enabled):
                if read.workload is not None:
                    self._by_name[resource.kind, read.workload.namespace, read.name] = read.workload
                if resource is STATEFUL_SETS:
                    self._revisions[read.uid] = read.revision
        newest: dict[str, tuple[int, Object]] = {}
        for seen, one in self._sets.look(seen for seen in mirrors[REPLICA_SETS] if namespace_of(seen) in enabled):
            if one is not None and (one.above not in newest or one.revision > newest[one.above][0]):
                newest[one.above] = one.revision, seen
        self._newest = {uid: seen for uid, (_, seen) in newest.items()}

    def __iter__(self) -> Iterator[Workload]:
        return iter(self._by_name.values())

    def find(self, kind: str, namespace: str, name: str) -> Workload | None:
        """None: it is not there, or of a kind that is not planned for."""
        return self._by_name.get((kind, namespace, name))

    def template(self, workload: Workload, day: str) -> Template | None:
        """Of its next pods; None: it cannot be told yet. `day`: of a CronJob's next run, as 20261126."""
        uid = workload.uid
        if workload.subject.resource is CRON_JOBS:
            pinned = all(_PINNED.fullmatch(model.ref) for model in workload.facts.models)
            return Template(uid=uid, hash=_RUN) if pinned else Template(uid=f"{uid}.{day}", hash=NO_HASH)
        if not workload.is_current:
            return None
        if workload.subject.resource is STATEFUL_SETS:
            revision = self._revisions.get(uid, "")
            return Template(uid=uid, hash=revision) if revision else None
        newest = self._newest.get(uid)
        if newest is None or self._models_of(newest) != workload.facts.models:
            return None
        labels = metadata_of(newest).get("labels")
        found = labels.get("pod-template-hash") if isinstance(labels, Mapping) else None
        return Template(uid=uid, hash=str(found)) if found else None

    def _models_of(self, newest: Object) -> tuple[WantedModel, ...]:
        uid, version = uid_of(newest), str(version_of(newest))
        found = self._models.get(uid)
        if found is None or found[0] != version:
            if len(self._models) > _REMEMBERED:
                self._models.clear()
            found = self._models[uid] = version, _models_of(newest)
        return found[1]


def workload_of(resource: Resource, seen: Object) -> Workload | None:
    """None: its template is that of pods that have ended."""
    spec = _mapping(seen.get("spec"))
    holder = _mapping(_mapping(spec.get("jobTemplate")).get("spec")) if resource is CRON_JOBS else spec
    template = _mapping(holder.get("template"))
    head = {**metadata_of(template), "namespace": namespace_of(seen), "name": name_of(seen)}
    facts = facts_of({**template, "metadata": head})
    if facts is None:
        return None
    own = {key: str(value) for key, value in _mapping(metadata_of(seen).get("annotations")).items() if is_ours(str(key))}
    said = {str(key): str(value) for key, value in _mapping(metadata_of(template).get("annotations")).items()}
    schedule, mistakes = None, facts.mistakes
    if own and resource is not CRON_JOBS:
        try:
            schedule = parse({**said, **own}).schedule
        except Mistakes as exc:
            mistakes = tuple(map(str, exc.mistakes))
    elif not mistakes:
        schedule = parse(said).schedule
    priority_class = _mapping(template.get("spec")).get("priorityClassName")
    generation, observed = metadata_of(seen).get("generation"), _mapping(seen.get("status")).get("observedGeneration")
    return Workload(
        Subject.of(resource, seen),
        replace(facts, mistakes=mistakes),
        _count(resource, holder),
        schedule,
        mistakes,
        str(priority_class or ""),
        is_current=observed is None or generation is None or observed == generation,
    )


def _read(resource: Resource, seen: Object) -> _Read:
    return _Read(name_of(seen), uid_of(seen), workload_of(resource, seen), _update_revision(seen))


def _set(seen: Object) -> _Set | None:
    """None: it is by itself."""
    controller = controller_of(seen)
    if controller is None:
        return None
    text = str(_mapping(metadata_of(seen).get("annotations")).get(REVISION, "0"))
    revision = int(text) if text.isascii() and text.isdigit() else 0
    return _Set(str(controller.get("uid", "")), revision)


def _models_of(seen: Object) -> tuple[WantedModel, ...]:
    template = _mapping(_mapping(seen.get("spec")).get("template"))
    facts = facts_of({**template, "metadata": {**metadata_of(template), "namespace": namespace_of(seen), "name": name_of(seen)}})
    return facts.models if facts is not None else ()


def _update_revision(seen: Object) -> str:
    return str(_mapping(seen.get("status")).get("updateRevision") or "")


def _count(resource: Resource, holder: Mapping[str, object]) -> int:
    """Pods that it is to have; of a CronJob, that a run has at once."""
    if resource is not CRON_JOBS:
        return _number(holder.get("replicas"), 1)
    most = _number(holder.get("completions"), 2**31)
    return min(_number(holder.get("parallelism"), 1), most)


def _number(given: object, otherwise: int) -> int:
    return given if isinstance(given, int) and not isinstance(given, bool) and given >= 0 else otherwise


def _mapping(given: object) -> Mapping[str, object]:
    return given if isinstance(given, Mapping) else {}
