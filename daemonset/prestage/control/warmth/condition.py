"""What a pod is told: the condition `prestage.dev/Warm`, its reason and its words. Pure over what the mirrors hold.

NotResolved     its refs are on their way to artifacts
Staging         some node fetches them; how long, as far as it can be told
Warm            True. Bound: its node holds all of them. Not bound yet: some node that holds all of them
Failed, Denied  its node (unbound: every node that tried) could not: class, code, and what to do
Misconfigured   its annotations are wrong, and admission was away when it was made
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prestage.api.annotations import ModelRequest, Request
from prestage.api.brokerage import Refusal, Template
from prestage.api.nodes import ErrorClass, SourceType, State
from prestage.control.gates.prediction import Failure, Holding, outlook
from prestage.control.gates.world import World, age_s
from prestage.control.podspec import node_of
from prestage.kube.ports import Object, namespace_of


class Reason(StrEnum):
    """See the module."""

    NOT_RESOLVED = "NotResolved"
    STAGING = "Staging"
    WARM = "Warm"
    FAILED = "Failed"
    DENIED = "Denied"
    MISCONFIGURED = "Misconfigured"


@dataclass(frozen=True, slots=True)
class Told:
    """`late_s`: by how much it was, or will be, later than its patience; None: it is in time. `because`: of being late."""

    reason: Reason
    message: str
    late_s: float | None = None
    because: str = ""

    @property
    def warm(self) -> bool:
        """The condition's status."""
        return self.reason is Reason.WARM


@dataclass(frozen=True, slots=True)
class Scan:
    """Of some artifacts on some nodes. `warm`: how many hold all of them; `soonest`: who stages them, and how long it takes."""

    warm: int
    soonest: tuple[str, float | None] | None
    failure: tuple[str, Failure] | None


Memory = dict[tuple[str, tuple[str, ...]], Scan]
"""By node (empty: all) and artifacts, for one look at many pods."""
Refusals = Callable[[Template, ModelRequest], Refusal | None]
"""Why the broker did not resolve a model for a template, as the planner heard it last."""


def _nothing(*_: object) -> None:
    return None


Past = Callable[[str, str, str, float], str]
"""Artifact, node, namespace of the pod and when it was made, to why it was not there then; empty: it was, or nobody knows."""


def _silent(*_: object) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Sources:
    """What more may be known than the mirrors hold."""

    refusals: Refusals = _nothing
    past: Past = _silent


QUICK_S: Final = 5.0
"""A pod whose models were there so soon was not cold."""


_NEXT: Final = {
    ErrorClass.MISCONFIGURED: "correct the ref or its Origin",
    ErrorClass.NOT_FOUND: "the origin has no such files: correct the ref",
    ErrorClass.DENIED: "the origin refused: look at prestage.dev/credentials or the StagedModel's credentials",
    ErrorClass.CORRUPT: "what the origin sends is not what it promised: it is tried again",
    ErrorClass.BUSY: "it is tried again",
    ErrorClass.FULL: "no node has room: evict or enlarge the budget (kubectl prestage nodes)",
    ErrorClass.UNAVAILABLE: "the origin does not answer: it is tried again",
    ErrorClass.BUG: "report it, with the agent's log",
}


def told(pod: Object, world: World, sources: Sources | None = None, memory: Memory | None = None) -> Told | None:
    """None: it names no models."""
    more = sources or Sources()
    wish = world.wishes.of(pod)
    if wish.mistakes is not None:
        first, *others = wish.mistakes.mistakes
        return Told(Reason.MISCONFIGURED, str(first) + (" (and more)" if others else ""))
    models = wish.models
    if not models:
        return None
    known = world.known(pod, models)
    if not known.complete:
        missing = [one for one in models if (one.alias, one.text) not in known.artifacts]
        return _unresolved(pod, missing, world, more)
    digests = tuple(sorted(set(known.artifacts.values())))
    where = node_of(pod)
    memory = {} if memory is None else memory
    if (where, digests) not in memory:
        near = [where] if where else sorted(set[str]().union(*map(world.holders, digests)))
        memory[where, digests] = _scan({name: world.holding(name) for name in near}, digests, world)
    return _resolved(pod, wish.request, digests, memory[where, digests], world, more)


def _unresolved(pod: Object, missing: Sequence[ModelRequest], world: World, more: Sources) -> Told:
    template = world.template(pod)
    for model in missing if template is not None else ():
        assert template is not None
        refusal = more.refusals(template, model)
        if refusal is not None:
            reason = Reason.DENIED if refusal.error_class is ErrorClass.DENIED else Reason.FAILED
            text = f"{model.alias}: {refusal.message}" + (f"; {refusal.hint}" if refusal.hint else "")
            return Told(reason, text)
    return Told(Reason.NOT_RESOLVED, f"Resolving {', '.join(one.text for one in missing)}")


def _scan(held: Mapping[str, Holding | None], digests: Sequence[str], world: World) -> Scan:
    there = {name: node for name, node in held.items() if node is not None}
    at_work = [name for name, node in there.items() if any(node.states.get(one) in _BUSY for one in digests)]
    looks = {name: outlook(digests, there[name], world.sizes, world.clock()).ready_in_s for name in at_work}
    failures = ((name, node.errors[one]) for name, node in there.items() for one in digests if one in node.errors)
    return Scan(
        warm=sum(all(node.states.get(one) is State.WARM for one in digests) for node in there.values()),
        soonest=min(looks.items(), key=lambda look: float("inf") if look[1] is None else look[1], default=None),
        failure=next(failures, None),
    )


def _resolved(pod: Object, request: Request, digests: Sequence[str], scan: Scan, world: World, more: Sources) -> Told:
    bound, age = node_of(pod), age_s(pod, world.now())
    if scan.warm:
        late = age - request.gate_timeout_s
        where = f"on {bound}" if bound else f"on {scan.warm} node{'s' if scan.warm > 1 else ''}"
        where += _was_cold(pod, digests, age, world, more) if bound and age > QUICK_S else ""
        return Told(Reason.WARM, f"Warm {where}", late if late > 0 else None, f"{_bytes(digests, world)} were to be staged")
    if scan.soonest is not None:
        return _staging(*scan.soonest, request.gate_timeout_s - age, digests, world)
    if scan.failure is not None:
        return _failed(*scan.failure)
    return Told(Reason.STAGING, "Resolved; no node has begun to stage it yet")


def _was_cold(pod: Object, digests: Sequence[str], age: float, world: World, more: Sources) -> str:
    """The first of its models that was not there; its words stay with the pod."""
    made, whose = world.now().timestamp() - age, namespace_of(pod) or ""
    words = (more.past(digest, node_of(pod) or "", whose, made) for digest in digests)
    why = next(filter(None, words), "")
    return f", {age:.0f} s after it was made: {why}" if why else ""


_BUSY: Final = (State.STAGING, State.PENDING)


def _failed(node: str, failure: Failure) -> Told:
    reason = Reason.DENIED if failure.kind is ErrorClass.DENIED else Reason.FAILED
    return Told(reason, f"Staging failed on {node}: {failure.kind}, {failure.code}; {_NEXT[failure.kind]}")


def _staging(name: str, left_s: float | None, patience_s: float, digests: Sequence[str], world: World) -> Told:
    holding = world.holding(name)
    busy = next((one for one in digests if holding and holding.states.get(one) in _BUSY), digests[0])
    percent = _percent(digests, holding, world.sizes) if holding else None
    words = [f"Staging {percent} % on {name}" if percent is not None else f"Staging on {name}"]
    if left_s is not None:
        words.append(f"about {left_s:.0f} s left")
    source = holding.sources.get(busy) if holding else None
    if source is not None:
        words.append("from origin" if source is SourceType.ORIGIN else "from a peer")
    late = left_s - max(0.0, patience_s) if left_s is not None and left_s > max(0.0, patience_s) else None
    return Told(Reason.STAGING, ", ".join(words), late, f"{_bytes(digests, world)} take longer at the rate of {name}")


def _percent(digests: Sequence[str], holding: Holding, sizes: Mapping[str, int]) -> int | None:
    """Of all of them together, 100 only once they are whole; None where a size or what is there is not known."""
    if not any(digest in holding.fetched for digest in digests):
        return None
    total = done = 0
    for digest in digests:
        size, state = sizes.get(digest), holding.states.get(digest)
        if size is None or (state is State.STAGING and digest not in holding.fetched):
            return None
        total += size
        done += size if state is State.WARM else min(size, holding.fetched.get(digest, 0))
    return min(99, done * 100 // total) if total else None


def _bytes(digests: Sequence[str], world: World) -> str:
    return f"{sum(world.sizes.get(one, 0) for one in digests) / 1e9:.1f} GB"
