"""Answers of `why` about a pod's past, a model and a node: objects and the decision log in, findings out. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from prestage.api.annotations import Mistakes
from prestage.api.artifacts import Artifact
from prestage.api.models import StagedModel
from prestage.api.nodes import Action, NodeCache, State
from prestage.api.policies import STARTUP_TAINT
from prestage.api.reading import Invalid, read
from prestage.api.schedules import StagingSchedule
from prestage.api.values import Stored
from prestage.control.admission.mistakes import examined, models_of
from prestage.control.demand.image_lines import plain, ref_of
from prestage.control.planning.recalling import SAY_IT, Recall, clock, cold, holds, returns, stays, went
from prestage.control.podspec import node_of
from prestage.control.warmth.reporting import condition_of
from prestage.kube.ports import Object, metadata_of, namespace_of
from prestage.kubectl.finding import Finding, Level
from prestage.kubectl.images import how_far
from prestage.kubectl.reasons import Evidence, world_of
from prestage.node.starting import made_at, most_s, others
from prestage.planner.decisions import Decided, Decision

Kind = TypeVar("Kind", bound=Stored)
_QUICK_S = 5.0
"""A pod that was warm so soon was not cold."""
_NO_LOG = "you may not read the planners' decision log (ConfigMap prestage-decisions), or there is none yet: ask an operator"


@dataclass(frozen=True, slots=True)
class Holdings:
    """Of one namespace. `caches` and `decisions` None: the caller may not read them."""

    namespace: str
    models: Sequence[Object] = ()
    artifacts: Sequence[Object] = ()
    schedules: Sequence[Object] = ()
    caches: Sequence[Object] | None = None
    decisions: Sequence[Decision] | None = None
    now: float = 0.0

    @property
    def recall(self) -> Recall:
        """The log, asked by this namespace."""
        return Recall(self.decisions or (), self.namespace, self.now)


def about_pod(seen: Evidence, decisions: Sequence[Decision] | None, now: float) -> list[Finding]:
    """Why its models were not there when it came. Nothing where they were, or where nothing is known of it yet."""
    try:
        models = models_of(seen.pod, examined(seen.pod))
    except Mistakes:
        return []
    made, node = _moment(metadata_of(seen.pod).get("creationTimestamp")), node_of(seen.pod)
    if made is None or not models:
        return []
    waited = _waited(seen.pod, made, now)
    if waited is None or waited <= _QUICK_S:
        return []
    if decisions is None:
        later = f"came {waited:.0f} s later" if _is_warm(seen.pod) else f"{waited:.0f} s later it still is not"
        said = f"it was not there when the pod was made, and {later}; {SAY_IT}"
        return [Finding("cold", Level.NOTE, said), Finding("decisions", Level.NOTE, _NO_LOG)]
    if not node:
        return []
    recall = Recall(decisions, namespace_of(seen.pod) or "", now)
    world = world_of(seen)
    known = world.known(seen.pod, models).artifacts
    asked = [(one.alias, digest) for one in models if (digest := known.get((one.alias, one.text))) is not None]
    if world.stages_images(node):
        images = world.recorded_images(seen.pod, world.wishes.of(seen.pod).images.refs).on(world.architecture(node))
        asked += [(f"image {plain(ref)}", digest) for digest, ref in images.items()]
    return [Finding("cold", Level.NOTE, f"{name}: {says}") for name, digest in asked for says in cold(recall, digest, node, made)]


def _waited(pod: Object, made: float, now: float) -> float | None:
    """How long it took until it was warm, or takes already; None: nobody said how it stands."""
    there = condition_of(pod)
    if not there:
        return None
    if not _is_warm(pod):
        return now - made
    since = _moment(there.get("lastTransitionTime"))
    return None if since is None else since - made


def _is_warm(pod: Object) -> bool:
    return condition_of(pod).get("status") == "True"


def about_model(name: str, seen: Holdings) -> list[Finding] | None:
    """`name`: a StagedModel, an alias, a ref or a digest of the namespace; None: it has none of that name."""
    digests = digests_of(name, seen)
    if digests is None:
        return None
    if not digests:
        return [Finding("artifact", Level.WAIT, f"{name} is not resolved yet: kubectl prestage models -n {seen.namespace}")]
    found = list[Finding]()
    for digest, size_bytes in digests.items():
        found.append(Finding("artifact", Level.OK, f"{digest[:19]}, {size_bytes / 1e9:.1f} GB"))
        found += _where(digest, size_bytes, seen)
    found += _wanted(name, seen)
    if seen.decisions is None:
        return [*found, Finding("decisions", Level.NOTE, _NO_LOG)]
    return found


def digests_of(name: str, seen: Holdings) -> dict[str, int] | None:
    """With their sizes; what the namespace has never had is not told apart from what does not exist."""
    found: dict[str, int] = {}
    is_known, names = False, _refs(name)
    for model in _read(StagedModel, seen.models):
        if name in (model.metadata.name, f"ref:{model.metadata.name}", model.spec.source):
            is_known = True
            resolved = model.status.artifact if model.status is not None else None
            if resolved is not None:
                found[resolved.digest] = resolved.size
    for artifact in _read(Artifact, seen.artifacts):
        uses = (artifact.status.templates if artifact.status is not None else None) or ()
        if name == artifact.spec.digest or any(use.alias == name or use.ref in names for use in uses):
            found[artifact.spec.digest] = artifact.spec.size
    return found if found or is_known else None


def _refs(name: str) -> set[str]:
    """As users write it, and an image also as a pod names it."""
    image = ref_of(name)
    return {name} if image is None else {name, image}


def _where(digest: str, size_bytes: int, seen: Holdings) -> Iterator[Finding]:
    if seen.caches is None:
        yield Finding("nodes", Level.NOTE, "you may not read NodeCaches: on which nodes it is, an operator can tell")
        return
    caches, recall = list(_read(NodeCache, seen.caches)), seen.recall
    holders = [cache for cache in caches if holds(cache, digest)]
    for cache in holders:
        yield Finding("here", Level.OK, stays(recall, digest, cache))
    for cache in caches:
        for one in (cache.status.artifacts if cache.status is not None else None) or ():
            if one.digest == digest and one.state in (State.STAGING, State.PENDING):
                yield Finding("coming", Level.WAIT, f"it is {how_far(one, size_bytes)} on {cache.metadata.name}")
            elif one.digest == digest and one.state is State.FAILED:
                why = "/".join(filter(None, (str(one.error_class or ""), one.error_code)))
                yield Finding("failed", Level.ACT, f"staging it failed on {cache.metadata.name}: {why}")
    for says in went(recall, digest, caches):
        yield Finding("went", Level.NOTE, says)
    if not holders and seen.decisions is not None:
        yield Finding("back", Level.NOTE, returns(recall, digest))


def _wanted(name: str, seen: Holdings) -> Iterator[Finding]:
    """What StagingSchedules say that name the StagedModel or image."""
    names = _refs(name)
    for schedule in _read(StagingSchedule, seen.schedules):
        models = {one.model_ref.name for one in schedule.spec.artifacts if one.model_ref is not None}
        images = {ref_of(one.image) for one in schedule.spec.artifacts if one.image is not None}
        if name not in models and not names & images:
            continue
        coming = schedule.status.next if schedule.status is not None else None
        if coming is None or coming.ready_by is None:
            continue
        start = f", staging begins at {coming.start_at:%Y-%m-%dT%H:%M:%SZ} at the latest" if coming.start_at is not None else ""
        late = f"; {coming.message}" if coming.message else ""
        says = f"StagingSchedule/{schedule.metadata.name} wants it ready by {coming.ready_by:%Y-%m-%dT%H:%M:%SZ}{start}{late}"
        yield Finding("schedule", Level.ACT if late else Level.OK, says)


def about_start(node: Object, pools: Sequence[Object], cache: Object) -> list[Finding]:
    """Of a node that takes no pods yet: until when, and what it still lacks."""
    if others(node) is None:
        return []
    made = made_at(node)
    by = f", at {clock(made + most_s(node, pools))} at the latest" if made is not None else ""
    says = f"no pods yet: its taint {STARTUP_TAINT} goes once it is filled{by}"
    try:
        seen = read(NodeCache, cache)
    except Invalid:
        return [Finding("starting", Level.WAIT, says)]
    staged = [one.digest for one in seen.spec.artifacts or () if one.action is Action.STAGE]
    there = sum(holds(seen, digest) for digest in staged)
    return [Finding("starting", Level.WAIT, f"{says}; {there} of {len(staged)} to be staged are there")]


def about_node(
    seen: Object, artifacts: Sequence[Object] | None, decisions: Sequence[Decision] | None, now: float
) -> list[Finding]:
    """What it holds and why, what it lately let go of and why. For operators: every name may be told."""
    try:
        cache = read(NodeCache, seen)
    except Invalid as exc:
        return [Finding("node", Level.ACT, f"its NodeCache cannot be read: {exc}")]
    recall, names = Recall(decisions or (), None, now), _names(artifacts or ())
    sizes = {one.spec.digest: one.spec.size for one in _read(Artifact, artifacts or ())}
    held = (cache.status.artifacts if cache.status is not None else None) or ()
    found = [_held(recall, cache, one.digest, names) for one in held if holds(cache, one.digest)]
    for one in held:
        if one.state in (State.STAGING, State.PENDING):
            found.append(Finding("coming", Level.WAIT, f"{_named(one.digest, names)} is {how_far(one, sizes.get(one.digest))}"))
        elif one.state is State.FAILED:
            why = "/".join(filter(None, (str(one.error_class or ""), one.error_code)))
            found.append(Finding("failed", Level.ACT, f"{_named(one.digest, names)}: {why}"))
    if cache.status is None:
        found.append(Finding("node", Level.WAIT, "its agent has not reported yet"))
    lately = {one.artifact for one in recall.decisions if one.what is Decided.GONE and cache.metadata.name in one.nodes}
    for artifact in sorted(lately - {""}):
        found += [Finding("went", Level.NOTE, f"{_named(artifact, names)}: {says}") for says in went(recall, artifact, [cache])]
    if decisions is None:
        found.append(Finding("decisions", Level.NOTE, _NO_LOG))
    elif decisions:
        found.append(Finding("decisions", Level.NOTE, f"the log begins at {clock(decisions[0].at)}"))
    return found


def _held(recall: Recall, cache: NodeCache, digest: str, names: Mapping[str, str]) -> Finding:
    return Finding("here", Level.OK, f"{_named(digest, names)}: {stays(recall, digest, cache)}")


def _named(digest: str, names: Mapping[str, str]) -> str:
    return f"{digest[:19]}{f' ({names[digest]})' if digest in names else ''}"


def _names(artifacts: Iterable[Object]) -> dict[str, str]:
    """What namespaces call them, a few."""
    found: dict[str, set[str]] = {}
    for artifact in _read(Artifact, artifacts):
        uses = (artifact.status.templates if artifact.status is not None else None) or ()
        said = {f"{artifact.metadata.namespace}: {use.ref}" for use in uses}
        found.setdefault(artifact.spec.digest, set()).update(said)
    return {digest: ", ".join(sorted(said)[:3]) for digest, said in found.items() if said}


def _read(kind: type[Kind], seen: Iterable[Object]) -> Iterator[Kind]:
    for one in seen:
        try:
            yield read(kind, one)
        except Invalid:
            continue


def _moment(given: object) -> float | None:
    try:
        found = datetime.datetime.fromisoformat(str(given))
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None else None
