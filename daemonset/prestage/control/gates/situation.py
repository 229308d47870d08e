"""From the world to a pod's Situation, and to the warm nodes it should prefer. Pure over what the mirrors hold.

Pods that were released a moment ago and are not bound yet are counted where they will probably land, so that ten pods do not
all see the one free GPU beside the warm files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prestage.api.annotations import WARM_GATE, ModelRequest, Request
from prestage.control.gates.decision import Situation
from prestage.control.gates.fitting import fit
from prestage.control.gates.prediction import Holding, Outlook, outlook
from prestage.control.gates.preference import PLACES_MAX, place_of
from prestage.control.gates.world import Known, World
from prestage.control.podspec import gates_of, is_gated, node_of
from prestage.kube.ports import Object


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A Situation, and what came out on the way to it."""

    situation: Situation
    known: Known
    warm: tuple[str, ...] = ()
    """Names of warm nodes with room."""
    places: tuple[str, ...] = ()
    """Of warm nodes that fit, those with room first."""
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)


def surroundings(
    pod: Object,
    request: Request,
    models: Sequence[ModelRequest],
    *,
    world: World,
    waited_s: float = 0.0,
    assumed: Mapping[str, Sequence[Object]] | None = None,
) -> Surroundings:
    """`waited_s`: since ours is the only gate."""
    known = world.known(pod, models)
    digests = sorted(set(known.artifacts.values()))
    found = fit(pod, world.sites(), assumed or {})
    seen = {name: _outlook(digests, world.holding(name), world) for name in found.fitting} if known.complete and digests else {}
    warm = sorted(name for name, one in seen.items() if one.warm)
    roomy = [name for name in warm if name in found.with_room]
    ready = [one.ready_in_s for name, one in seen.items() if name in found.with_room and one.ready_in_s is not None]
    failures = [one.failed for name, one in seen.items() if name in found.with_room]
    situation = Situation(
        placed=bool(node_of(pod)),
        gated=is_gated(pod),
        wait=request.wait,
        on_timeout=request.on_timeout,
        gate_timeout_s=request.gate_timeout_s,
        lease_age_s=world.lease_age_s(),
        other_gates=has_other_gates(pod),
        fitting=len(found.fitting),
        with_room=len(found.with_room),
        warm_with_room=len(roomy),
        failed=bool(failures) and all(failures),
        resolved=known.complete,
        ready_in_s=min(ready, default=None),
        waited_s=waited_s,
        rollout_left_s=world.rollout_left_s(pod),
    )
    return Surroundings(situation, known, tuple(roomy), _places([*roomy, *warm], world), seen)


def has_other_gates(pod: Object) -> bool:
    """Beside ours."""
    return any(gate != WARM_GATE for gate in gates_of(pod))


def _outlook(digests: Sequence[str], node: Holding | None, world: World) -> Outlook:
    return outlook(digests, node, world.sizes, world.clock())


def _places(names: Iterable[str], world: World) -> tuple[str, ...]:
    nodes = [node for name in dict.fromkeys(names) if (node := world.node(name)) is not None]
    found = [place for node in nodes if (place := place_of(node)) is not None]
    return tuple(found[:PLACES_MAX])
