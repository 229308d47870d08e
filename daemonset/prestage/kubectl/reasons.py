"""Why a pod is as it is: from what can be read of it to sentences, the first that needs somebody last. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prestage.api.annotations import ENABLED_LABEL, Mistakes, ModelRequest, Request, WaitFor
from prestage.api.nodes import State
from prestage.control.admission.mistakes import examined, models_of
from prestage.control.gates.followed import FOLLOWED
from prestage.control.gates.world import World
from prestage.control.podspec import gates_of, is_gated, is_ours, node_of, part, volumes_of
from prestage.control.warmth.reporting import condition_of
from prestage.kube.mirror import Appeared, Synced
from prestage.kube.ports import Object, Resource, metadata_of, name_of, namespace_of
from prestage.kube.resources import ARTIFACTS, NODE_CACHES, NODES, REPLICA_SETS
from prestage.kubectl.finding import Finding, Level, some
from prestage.kubectl.images import about_images


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read. None: the caller may not."""

    pod: Object
    namespace: Object | None = None
    artifacts: Sequence[Object] | None = None
    caches: Sequence[Object] | None = None
    replica_sets: Sequence[Object] | None = None
    events: Sequence[Object] | None = None
    nodes: Sequence[Object] | None = None


def findings(seen: Evidence) -> list[Finding]:
    """In the order in which a pod meets them."""
    pod = seen.pod
    if seen.namespace is not None and part(metadata_of(seen.namespace), "labels").get(ENABLED_LABEL) != "true":
        enable = f"kubectl label namespace {namespace_of(pod)} {ENABLED_LABEL}=true"
        return [Finding("namespace", Level.ACT, f"it did not opt in: {enable}, then make the pod anew")]
    try:
        request = examined(pod)
    except Mistakes as exc:
        return [Finding("annotations", Level.ACT, str(one)) for one in exc.mistakes]
    models = models_of(pod, request)
    if not models:
        return [
            Finding("annotations", Level.ACT, "it names no model: model.prestage.dev/NAME: hf://org/name on the pod template")
        ]
    found = [Finding("models", Level.OK, ", ".join(f"{one.alias} = {one.text}" for one in models))]
    found += _volume(pod, request)
    world = world_of(seen)
    found += _artifacts(pod, models, world, seen)
    found += _gate(pod)
    found += _nodes(pod, models, world, seen)
    found += about_images(pod, world, sees_nodes=seen.caches is not None)
    return found + _told(pod) + list(_events(seen))


def world_of(seen: Evidence) -> World:
    """The same mirrors as the control plane's, filled once."""
    world = World("")
    known = ((ARTIFACTS, seen.artifacts), (NODE_CACHES, seen.caches), (REPLICA_SETS, seen.replica_sets), (NODES, seen.nodes))
    for resource, listed in known:
        _fill(world, resource, listed or ())
    return world


def _fill(world: World, resource: Resource, listed: Sequence[Object]) -> None:
    mirror = world.mirrors[resource]
    mirror.replace(listed)
    for one in mirror:
        world.note(resource, Appeared(FOLLOWED[resource](one)))
    world.note(resource, Synced())


def _volume(pod: Object, request: Request) -> list[Finding]:
    if request.wait is WaitFor.NONE:
        return [Finding("volume", Level.OK, "none, as prestage.dev/wait: None says")]
    if any(map(is_ours, volumes_of(pod))):
        return [Finding("volume", Level.OK, "it has its volume")]
    said = "it has none: it was made while admission was away, or before the namespace opted in; make it anew"
    return [Finding("volume", Level.ACT, said)]


def _artifacts(pod: Object, models: Sequence[ModelRequest], world: World, seen: Evidence) -> Iterator[Finding]:
    if seen.artifacts is None:
        yield Finding("artifact", Level.NOTE, "you may not read Artifacts here")
        return
    known = world.known(pod, models).artifacts
    for model in models:
        digest = known.get((model.alias, model.text))
        if digest is None:
            yield Finding("artifact", Level.WAIT, f"{model.alias}: {model.text} is not resolved for this pod's template yet")
        else:
            size = world.sizes.get(digest, 0) / 1e9
            yield Finding("artifact", Level.OK, f"{model.alias}: {digest[:19]}, {size:.1f} GB")


def _gate(pod: Object) -> list[Finding]:
    others = [gate for gate in gates_of(pod) if gate != "prestage.dev/warm"]
    if others:
        return [Finding("gate", Level.WAIT, f"{', '.join(others)} holds it back; ours is decided once it is the last one")]
    if is_gated(pod):
        return [Finding("gate", Level.WAIT, "it is held back until a node is warm, or the gate's time is over")]
    return [Finding("gate", Level.OK, "none")]


def _nodes(pod: Object, models: Sequence[ModelRequest], world: World, seen: Evidence) -> Iterator[Finding]:
    where = node_of(pod)
    if seen.caches is None:
        yield Finding("nodes", Level.NOTE, (f"it is on {where}; " if where else "") + "you may not read NodeCaches")
        return
    digests = sorted(set(world.known(pod, models).artifacts.values()))
    names = [where] if where else sorted(world.holdings())
    for digest in digests:
        by_state: dict[State | None, list[str]] = {}
        for name in names:
            node = world.holding(name)
            by_state.setdefault(node.states.get(digest) if node else None, []).append(name)
        warm = by_state.pop(State.WARM, [])
        if warm:
            yield Finding("nodes", Level.OK, f"{digest[:19]} is warm on {some(warm)}")
        for state, those in by_state.items():
            if state is State.FAILED:
                node = world.holding(those[0])
                failure = node.errors[digest] if node else None
                code = f" ({failure.kind}, {failure.code})" if failure else ""
                yield Finding("nodes", Level.ACT if where else Level.NOTE, f"{digest[:19]} failed on {some(those)}{code}")
            elif state is not None:
                yield Finding("nodes", Level.WAIT, f"{digest[:19]} is {state} on {some(those)}")
            elif where:
                yield Finding("nodes", Level.WAIT, f"{digest[:19]} is not on {where}, and nothing says that it stages it")
    if not names:
        yield Finding("nodes", Level.ACT, "no node has a NodeCache: is the DaemonSet running? (kubectl prestage doctor)")


def _told(pod: Object) -> list[Finding]:
    there = condition_of(pod)
    if not there:
        return [Finding("condition", Level.NOTE, "prestage.dev/Warm is not set: the planner has not looked at it yet")]
    level = Level.OK if there.get("status") == "True" else Level.WAIT
    if there.get("reason") in ("Failed", "Denied", "Misconfigured"):
        level = Level.ACT
    said = f"{there.get('reason')} since {there.get('lastTransitionTime')}: {there.get('message')}"
    return [Finding("condition", level, said)]


def _events(seen: Evidence) -> Iterator[Finding]:
    mine = [one for one in seen.events or () if part(one, "regarding").get("name") == name_of(seen.pod)]
    for one in sorted(mine, key=_moment)[-8:]:
        level = Level.NOTE if one.get("type") == "Normal" else Level.ACT
        yield Finding("event", level, f"{_moment(one)} {one.get('reason')}: {one.get('note')}")


def _moment(event: Mapping[str, object]) -> str:
    return str(event.get("eventTime") or event.get("deprecatedLastTimestamp") or "")[:19]
