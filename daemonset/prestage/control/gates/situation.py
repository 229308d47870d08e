"""From the world to a pod's Situation, and to the warm nodes it should prefer. Pure over what the mirrors hold.

Pods that were released a moment ago and are not bound yet are counted where they will probably land, so that ten pods do not
all see the one free GPU beside the warm files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prestage.api.annotations import ModelRequest, Request
from prestage.control.gates.decision import Situation
from prestage.control.gates.looking import Look, Prospect
from prestage.control.gates.world import Known
from prestage.control.podspec import has_other_gates, is_gated, node_of
from prestage.kube.ports import Object


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A Situation, and what came out on the way to it."""

    situation: Situation
    known: Known
    warm: tuple[str, ...] = ()
    """Names of nodes with room that hold its models, those before others that hold its images too."""
    places: tuple[str, ...] = ()
    """Of warm nodes that fit, those with room first."""


def surroundings(
    pod: Object, request: Request, models: Sequence[ModelRequest], *, look: Look, waited_s: float = 0.0
) -> Surroundings:
    """`waited_s`: since ours is the only gate."""
    world = look.world
    known = world.known(pod, models)
    digests = tuple(sorted(set(known.artifacts.values())))
    needs = world.wishes.of(pod).needs
    fit = look.fit(needs)
    prospect = look.prospect(needs, digests, world.images(pod)) if known.complete and digests else Prospect()
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
        models_with_room=len(prospect.warm) + len(prospect.bare),
        warm_with_room=len(prospect.warm),
        images_coming=prospect.images_coming,
        images_possible=prospect.images_possible,
        failed=prospect.failed,
        resolved=known.complete,
        ready_in_s=prospect.ready_in_s,
        waited_s=waited_s,
        rollout_left_s=world.rollout_left_s(pod),
    )
    return Surroundings(situation, known, (*prospect.warm, *prospect.bare), prospect.places)
