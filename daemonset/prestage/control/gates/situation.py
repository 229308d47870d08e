"""From the world to a pod's Situation, and to the warm nodes it should prefer. Pure over what the mirrors hold.

Pods that were released a moment ago and are not bound yet are counted where they will probably land, so that ten pods do not
all see the one free GPU beside the warm files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prestage.api.annotations import WARM_GATE, ModelRequest, Request
from prestage.control.gates.decision import Situation
from prestage.control.gates.looking import Look
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


def surroundings(
    pod: Object, request: Request, models: Sequence[ModelRequest], *, look: Look, waited_s: float = 0.0
) -> Surroundings:
    """`waited_s`: since ours is the only gate."""
    world = look.world
    known = world.known(pod, models)
    digests = tuple(sorted(set(known.artifacts.values())))
    fit = look.fit(pod)
    outlooks = look.outlooks(digests) if known.complete and digests else {}
    warm = sorted(name for name, one in outlooks.items() if one.warm and name in fit.fitting)
    roomy = [name for name in warm if name in fit.with_room]
    at_hand = [outlooks[name] for name in fit.with_room if name in outlooks]
    situation = Situation(
        placed=bool(node_of(pod)),
        gated=is_gated(pod),
        wait=request.wait,
        on_timeout=request.on_timeout,
        gate_timeout_s=request.gate_timeout_s,
        lease_age_s=world.lease_age_s(),
        other_gates=has_other_gates(pod),
        fitting=len(fit.fitting),
        with_room=len(fit.with_room),
        warm_with_room=len(roomy),
        failed=bool(at_hand) and all(one.failed for one in at_hand),
        resolved=known.complete,
        ready_in_s=min((one.ready_in_s for one in at_hand if one.ready_in_s is not None), default=None),
        waited_s=waited_s,
        rollout_left_s=world.rollout_left_s(pod),
    )
    return Surroundings(situation, known, tuple(roomy), _places([*roomy, *warm], world))


def has_other_gates(pod: Object) -> bool:
    """Beside ours."""
    return any(gate != WARM_GATE for gate in gates_of(pod))


def _places(names: Iterable[str], world: World) -> tuple[str, ...]:
    first = list(dict.fromkeys(names))[: 2 * PLACES_MAX]
    nodes = [node for name in first if (node := world.node(name)) is not None]
    found = [place for node in nodes if (place := place_of(node)) is not None]
    return tuple(found[:PLACES_MAX])
