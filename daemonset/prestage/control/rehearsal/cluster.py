"""A cluster to a rehearsal: the objects that the planner looks at, read once with the rights of whoever asks; nothing is written.

every kind of KEPT, listed ─▶ mirrors ─▶ Seeing, as in the planner ─▶ demand, nodes, walls
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.cacher.errors import NotFound
from prestage.control.demand.collecting import Collected
from prestage.control.demand.declared import Declaration
from prestage.control.demand.records import Line
from prestage.control.demand.world import KEPT, Kept
from prestage.control.planning.seeing import Seeing, Sight
from prestage.control.rehearsal.rehearsal import Rehearsal
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.events import Subject
from prestage.kube.listing import all_of
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Api, Object, Resource
from prestage.kube.resources import ARTIFACTS
from prestage.planner.demands import Demand, Trust
from prestage.planner.rules import Rules

_AT_ONCE: Final = 4
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_QUIET: Final = frozenset({"Suspended"})


@dataclass(frozen=True, slots=True)
class Gathered:
    """Mirrors of what was read. `unread`: kinds of others that are left out, for the one who asks may not see them."""

    mirrors: Mapping[Resource, Mirror]
    unread: tuple[Resource, ...] = ()

    def __getitem__(self, resource: Resource) -> Mirror:
        return self.mirrors[resource]


async def gathered(api: Api) -> Gathered:
    """All of it.

    Raises:
        Forbidden: names every kind that is needed and may not be listed, and a command that gives the rights.
        NotFound: our kinds are not served there.
    """
    limit = asyncio.Semaphore(_AT_ONCE)

    async def read(kept: Kept) -> list[Object] | Forbidden | Missing:
        async with limit:
            try:
                return await all_of(api, kept.resource)
            except (Forbidden, Missing) as exc:
                return exc

    async with asyncio.TaskGroup() as group:
        tasks = {kept.resource: group.create_task(read(kept)) for kept in KEPT}
    mirrors, refused, missing = dict[Resource, Mirror](), list[Resource](), list[Resource]()
    for kept in KEPT:
        found = tasks[kept.resource].result()
        mirror = mirrors[kept.resource] = Mirror(kept.keep)
        if isinstance(found, list):
            mirror.replace(found)
        elif isinstance(found, Forbidden):
            refused.append(kept.resource)
        elif not kept.is_optional:
            missing.append(kept.resource)
    optional = {kept.resource for kept in KEPT if kept.is_optional}
    if lacking := [one for one in refused if one not in optional]:
        raise _forbidden(lacking)
    if missing:
        names = ", ".join(_named(one) for one in missing)
        raise NotFound(f"this cluster does not serve {names}", hint="is prestage installed there? name another with --context")
    return Gathered(mirrors, tuple(refused))


def _forbidden(resources: Iterable[Resource]) -> Forbidden:
    names = ",".join(_named(one) for one in resources)
    role = f"kubectl create clusterrole prestage-rehearsal --verb=get,list --resource={names}"
    return Forbidden(
        f"you may not list, in the whole cluster: {names.replace(',', ', ')}",
        hint=f"ask for a role with these rights, bound to you: `{role}`",
    )


def _named(resource: Resource) -> str:
    group = resource.group_version.rpartition("/")[0]
    return f"{resource.plural}.{group}" if group else resource.plural


def rehearsal_of(seen: Gathered, now: float, rules: Rules) -> Rehearsal:
    """Pure."""
    sight = Seeing().look(seen, now)
    collected = sight.collected
    demands = sight.demands
    return Rehearsal(
        demands,
        tuple(sight.nodes),
        now,
        rules,
        walls=sight.walls,
        sizes=sizes_of(seen[ARTIFACTS]),
        parts=sight.parts,
        names=names_of(collected),
        told={one.id: _told(one, collected) for one in demands if one.trust is not Trust.STANDING},
        notes=tuple(_plain(note) for note in _notes(sight, seen.unread)),
        images=tuple(sight.images),
    )


def sizes_of(artifacts: Iterable[Object]) -> dict[str, int]:
    """By digest."""
    found: dict[str, int] = {}
    for seen in artifacts:
        spec = seen.get("spec")
        size = spec.get("size") if isinstance(spec, Mapping) else None
        if isinstance(spec, Mapping) and isinstance(size, int):
            found[str(spec.get("digest", ""))] = size
    return found


def names_of(collected: Collected) -> dict[str, str]:
    """By digest, for what somebody wants: the shortest ref that it has; one that two artifacts have is told apart by digest."""
    words: dict[str, set[str]] = {}
    for demand in collected.demands:
        words.setdefault(demand.artifact, set()).add(_word(collected.lines[demand.id], demand.namespace))
    chosen = {artifact: min(found, key=lambda one: (len(one), one)) for artifact, found in words.items()}
    twice = list(chosen.values())
    return {
        artifact: _plain(word if twice.count(word) == 1 else f"{word} ({artifact.removeprefix('sha256:')[:8]})")
        for artifact, word in chosen.items()
    }


def _word(line: Line, namespace: str) -> str:
    name = line.ref.removeprefix("ref:")
    return f"{namespace}/{name}" if name != line.ref and "/" not in name else name


def _told(demand: Demand, collected: Collected) -> str:
    due = collected.dues.get(demand.id)
    if due is not None:
        when = "" if due.ready_by is None else f", window {due.want.window}"
        return _plain(f"{_subject(due.declaration.subject)}{when}")
    subject = collected.subjects.get(collected.lines[demand.id].uid)
    pods = {Trust.BOUND: "pods", Trust.WAITING: "waiting pods"}.get(demand.trust, "pods to come")
    return _plain(f"{pods} of {_subject(subject)}" if subject is not None else f"{pods} in {demand.namespace}")


def _subject(subject: Subject) -> str:
    place = f"{subject.namespace}/" if subject.namespace else ""
    return f"{subject.resource.kind.lower()} {place}{subject.name}"


def _notes(sight: Sight, unread: Iterable[Resource]) -> Iterator[str]:
    collected = sight.collected
    for resource in unread:
        yield f"{_named(resource)} are left out: you may not list them"
    for name, why in sorted(sight.policies.broken.items()):
        yield f"CachePolicy {name} cannot be read, and the planner stages nothing new before it can: {why}"
    for question in collected.questions:
        ref = question.line.ref
        yield f"{ref} in {question.namespace} is not resolved yet: nobody knows how large it is, and it is left out"
    for line, row in sorted(sight.stopped.items()):
        owner = collected.known[line].namespace
        yield f"{line.ref} of {owner} may not be read any more ({row.reason or 'revoked'}): nothing is staged for it"
    for declaration in collected.declarations:
        yield from _problems(declaration)
    for uid, count in collected.cut.items():
        subject = next((one.subject for one in collected.declarations if one.subject.uid == uid), None)
        if subject is not None:
            yield f"{_subject(subject)}: {count} of its demands are left out, for its namespace has too many"


def _problems(declaration: Declaration) -> Iterator[str]:
    for problem in declaration.problems:
        if problem.reason not in _QUIET:
            yield f"{_subject(declaration.subject)}: {problem.message}"


def _plain(text: str) -> str:
    """What others wrote, as one line for a terminal."""
    return _CONTROL.sub("�", text)
