"""What a pod is told: the condition `prestage.dev/Warm`, its reason and its words. Pure over what the mirrors hold.

NotResolved     its refs are on their way to artifacts
Staging         some node fetches them; how long, as far as it can be told
Warm            True. Bound: its node holds all of them. Not bound yet: some node that holds all of them
Failed, Denied  its node (unbound: every node that tried) could not: class, code, and what to do
Misconfigured   its annotations are wrong, and admission was away when it was made

Images count as models do where a node is at them, until the pod's containers run. What is left to the kubelet's own pull is
nothing that one could wait for: it is said beside Warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prestage.api.annotations import ModelRequest, Request
from prestage.api.brokerage import Refusal
from prestage.api.nodes import ErrorClass, State
from prestage.control.demand.image_lines import image_line, plain
from prestage.control.demand.records import Line
from prestage.control.gates.decision import RESOLVE_S
from prestage.control.gates.images import ARCHITECTURES, NO_IMAGES, PodImages, Standing, image_outlook
from prestage.control.gates.prediction import Failure, Holding, outlook
from prestage.control.gates.world import World, age_s
from prestage.control.podspec import has_other_gates, node_of, part
from prestage.control.warmth.progress import staging_words
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
    """`late_s`: by how much it was, or will be, later than its patience; None: it is in time, or nobody saw its time begin.
    `because`: of being late."""

    reason: Reason
    message: str
    late_s: float | None = None
    because: str = ""

    @property
    def warm(self) -> bool:
        """The condition's status."""
        return self.reason is Reason.WARM


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pod waits for."""

    models: tuple[str, ...]
    images: PodImages = NO_IMAGES

    def images_on(self, node: str, world: World) -> dict[str, str]:
        """Artifact to ref; none on a node that stages none."""
        return self.images.on(world.architecture(node)) if self.images.rows and world.stages_images(node) else {}


@dataclass(frozen=True, slots=True)
class Scan:
    """Of what is wanted on some nodes. `warm`: how many have nothing that is waited for; `soonest`: who stages, and how long it
    takes."""

    warm: int
    soonest: tuple[str, float | None] | None
    failure: tuple[str, Failure] | None
    bare: tuple[str, ...] = ()
    """Hold the models, and may yet be told to stage the images."""
    are_images_coming: bool = False
    """To a node that holds the models."""


Memory = dict[tuple[str, Wanted], Scan]
"""By node (empty: all) and what is wanted, for one look at many pods."""
Refusals = Callable[[Line], Refusal | None]
"""Why the broker did not resolve a model or an image for a template, as the planner heard it last."""


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
    images = NO_IMAGES if _runs(pod) else PodImages(world.images(pod).rows)
    if asked := _asked(pod, images, world, more):
        return Told(Reason.NOT_RESOLVED, f"Resolving {', '.join(map(plain, asked))}")
    wanted = Wanted(tuple(sorted(set(known.artifacts.values()))), images)
    where = node_of(pod)
    memory = {} if memory is None else memory
    if (where, wanted) not in memory:
        near = [where] if where else sorted(set[str]().union(*map(world.holders, wanted.models)))
        memory[where, wanted] = _scan({name: world.holding(name) for name in near}, wanted, world)
    return _resolved(pod, wish.request, wanted, memory[where, wanted], world, more)


def _runs(pod: Object) -> bool:
    """Its images are there, whoever brought them."""
    return part(pod, "status").get("phase") == "Running"


def _unresolved(pod: Object, missing: Sequence[ModelRequest], world: World, more: Sources) -> Told:
    template = world.template(pod)
    for model in missing if template is not None else ():
        assert template is not None
        refusal = more.refusals(Line(template.uid, template.hash, model.alias, model.text))
        if refusal is not None:
            reason = Reason.DENIED if refusal.error_class is ErrorClass.DENIED else Reason.FAILED
            text = f"{model.alias}: {refusal.message}" + (f"; {refusal.hint}" if refusal.hint else "")
            return Told(reason, text)
    return Told(Reason.NOT_RESOLVED, f"Resolving {', '.join(one.text for one in missing)}")


def _asked(pod: Object, images: PodImages, world: World, more: Sources) -> list[str]:
    """Images that the broker is asked about, in a pod's first seconds. One that it refuses is the kubelet's."""
    template = world.template(pod)
    if template is None or _runs(pod) or not world.stages_images(node_of(pod)) or age_s(pod, world.now()) >= RESOLVE_S:
        return []
    known = {ref for _, ref, _ in images.rows}
    found = list[str]()
    for ref in world.wishes.of(pod).images.awaited:
        lines = (image_line(template.uid, template.hash, ref, one) for one in ARCHITECTURES)
        if ref not in known and not any(more.refusals(line) for line in lines):
            found.append(ref)
    return found


def _scan(held: Mapping[str, Holding | None], wanted: Wanted, world: World) -> Scan:
    there = {name: node for name, node in held.items() if node is not None}
    looks, bare, warm, is_coming = dict[str, float | None](), list[str](), 0, False
    for name, node in there.items():
        models = outlook(wanted.models, node, world.sizes, world.clock())
        images = image_outlook(tuple(wanted.images_on(name, world)), node, world.sizes, world.clock())
        if any(node.states.get(one) in _BUSY for one in wanted.models):
            looks[name] = None if models.ready_in_s is None else max(models.ready_in_s, images.ready_in_s)
        elif models.warm and images.standing is Standing.COMING:
            looks[name], is_coming = images.ready_in_s, True
        elif models.warm and images.standing is Standing.POSSIBLE:
            bare.append(name)
        elif models.warm:
            warm += 1
    failures = ((name, node.errors[one]) for name, node in there.items() for one in wanted.models if one in node.errors)
    soonest = min(looks.items(), key=lambda look: float("inf") if look[1] is None else look[1], default=None)
    return Scan(warm, soonest, next(failures, None), tuple(bare), is_coming)


def _resolved(pod: Object, request: Request, wanted: Wanted, scan: Scan, world: World, more: Sources) -> Told:
    bound, age, patience_s = node_of(pod), age_s(pod, world.now()), _patience_s(pod, request, world)
    is_bare = bool(scan.bare) and not scan.are_images_coming
    if scan.warm or (is_bare and age >= RESOLVE_S):
        count = scan.warm or len(scan.bare)
        where = f"on {bound}" if bound else f"on {count} node{'s' if count > 1 else ''}"
        if bound:
            where += _was_cold(pod, wanted, age, world, more) if age > QUICK_S else ""
            where += _left(bound, wanted, world)
        late_s = -patience_s if patience_s is not None and patience_s < 0 else None
        return Told(Reason.WARM, f"Warm {where}", late_s, f"{_bytes(wanted.models, world)} were to be staged")
    if is_bare:
        return Told(Reason.STAGING, f"Models warm on {scan.bare[0]}; no node is told to stage its images yet")
    if scan.soonest is not None:
        return _staging(*scan.soonest, patience_s, wanted, world)
    if scan.failure is not None:
        return _failed(*scan.failure)
    return Told(Reason.STAGING, "Resolved; no node has begun to stage it yet")


def _patience_s(pod: Object, request: Request, world: World) -> float | None:
    """What is left of it; None: it has not begun, or nobody saw it begin."""
    waited_s = world.waited(pod).known_s
    return None if waited_s is None or has_other_gates(pod) else request.gate_timeout_s - waited_s


def _was_cold(pod: Object, wanted: Wanted, age: float, world: World, more: Sources) -> str:
    """The first of its models, then of its images, that was not there; its words stay with the pod."""
    where = node_of(pod)
    made, whose = world.now().timestamp() - age, namespace_of(pod) or ""
    asked = [(digest, "") for digest in wanted.models]
    asked += [(digest, f"image {plain(ref)}: ") for digest, ref in wanted.images_on(where, world).items()]
    words = (f"{about}{why}" for digest, about in asked if (why := more.past(digest, where, whose, made)))
    why = next(words, "")
    return f", {age:.0f} s after it was made: {why}" if why else ""


def _left(where: str, wanted: Wanted, world: World) -> str:
    """What the kubelet pulls there although it might have been staged."""
    node = world.holding(where)
    found = list[str]()
    for digest, ref in wanted.images_on(where, world).items() if node is not None else ():
        assert node is not None
        if node.states.get(digest) is not State.WARM:
            failure = node.errors.get(digest)
            found.append(plain(ref) + (f" ({failure.kind}, {failure.code})" if failure else ""))
    return f"; the kubelet pulls {', '.join(found)}" if found else ""


_BUSY: Final = (State.STAGING, State.PENDING)


def _failed(node: str, failure: Failure) -> Told:
    reason = Reason.DENIED if failure.kind is ErrorClass.DENIED else Reason.FAILED
    return Told(reason, f"Staging failed on {node}: {failure.kind}, {failure.code}; {_NEXT[failure.kind]}")


def _staging(name: str, left_s: float | None, patience_s: float | None, wanted: Wanted, world: World) -> Told:
    node, images = world.holding(name), wanted.images_on(name, world)
    words = staging_words(name, wanted.models, images, node=node, sizes=world.sizes, left_s=left_s)
    after_s = None if left_s is None or patience_s is None else left_s - max(0.0, patience_s)
    late_s = after_s if after_s is not None and after_s > 0 else None
    return Told(Reason.STAGING, words, late_s, f"{_bytes((*wanted.models, *images), world)} take longer at the rate of {name}")


def _bytes(digests: Sequence[str], world: World) -> str:
    return f"{sum(world.sizes.get(one, 0) for one in digests) / 1e9:.1f} GB"
