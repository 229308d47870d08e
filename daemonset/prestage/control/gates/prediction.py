"""When a node will hold an artifact. Pure.

NodeCache carries states, not bytes: what is left of a stage is what its size and the node's own measured rate leave of the
time since it was first seen Staging. Nothing is promised below a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prestage.api.nodes import Action, EntryType, ErrorClass, ImagesStatus, NodeCache, SourceType, State, Step
from prestage.api.texts import quantity_bytes

UNMEASURED_BYTES_PER_S: Final = 200_000_000
"""Of a node that has not staged anything yet: what one connection-bound origin gives (docs/figures.md has more)."""
_LEAST_S: Final = 1.0
_BUSY: Final = (State.STAGING, State.PENDING)


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of some artifacts on one node. `ready_in_s`: 0 where all are warm; None where nothing says. `failed`: one is."""

    ready_in_s: float | None
    failed: bool = False

    @property
    def warm(self) -> bool:
        """All of them, now."""
        return self.ready_in_s == 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Class and code, as NodeCache has them."""

    kind: ErrorClass
    code: str


@dataclass(frozen=True, slots=True)
class ImageRoom:
    """Of a node that stages images which its kubelet's pulls find."""

    budget_bytes: int
    rate_bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """A node's cache as its NodeCache says it. `since_s`: when each artifact was first seen in its state."""

    states: Mapping[str, State] = field(default_factory=dict)
    since_s: Mapping[str, float] = field(default_factory=dict)
    planned: Sequence[str] = ()
    sources: Mapping[str, SourceType] = field(default_factory=dict)
    """The first of each planned artifact."""
    errors: Mapping[str, Failure] = field(default_factory=dict)
    """Of those that are Failed."""
    rate_bytes_per_s: int | None = None
    fetched: Mapping[str, int] = field(default_factory=dict)
    """Bytes of those that are Staging, as of the last write."""
    steps: Mapping[str, Step] = field(default_factory=dict)
    """Of those that are Staging."""
    images: ImageRoom | None = None
    """None: it stages none."""
    are_images: frozenset[str] = frozenset()
    """Of all that is named here."""
    told_images_s: Mapping[str, float] = field(default_factory=dict)
    """Those that it is to stage, and since when that was seen."""


def told_images(cache: NodeCache) -> frozenset[str]:
    """What its plan has it stage into containerd."""
    planned = cache.spec.artifacts or ()
    return frozenset(one.digest for one in planned if one.type is EntryType.IMAGE and one.action is Action.STAGE)


def holding(cache: NodeCache, since_s: Mapping[str, float], told_s: Mapping[str, float] | None = None) -> Holding:
    """From its NodeCache. `told_s`: since when it is seen that images are to be staged."""
    status = cache.status
    listed = (status.artifacts if status else None) or ()
    held = {one.digest: one.state for one in listed}
    rate = status.origin_rate_p10 if status else None
    return Holding(
        states=held,
        since_s=since_s,
        planned=tuple(one.digest for one in cache.spec.artifacts or ()),
        sources={one.digest: one.sources[0].type for one in cache.spec.artifacts or () if one.sources},
        errors={
            one.digest: Failure(one.error_class or ErrorClass.BUG, one.error_code or "Unknown")
            for one in listed
            if one.state is State.FAILED
        },
        rate_bytes_per_s=quantity_bytes(rate) if rate is not None else None,
        fetched={one.digest: quantity_bytes(one.fetched) for one in listed if one.fetched is not None},
        steps={one.digest: one.step for one in listed if one.step is not None},
        images=_image_room(status.images) if status else None,
        are_images=frozenset(one.digest for one in (*listed, *(cache.spec.artifacts or ())) if one.type is EntryType.IMAGE),
        told_images_s=told_s or {},
    )


def _image_room(said: ImagesStatus | None) -> ImageRoom | None:
    """None also where pulls use another daemon's snapshotter, or nobody sees containerd's disk: nothing is planned there."""
    if said is None or said.budget is None or said.snapshotter in (said.remote_snapshotters or ()):
        return None
    return ImageRoom(quantity_bytes(said.budget), None if said.rate_p10 is None else quantity_bytes(said.rate_p10))


def told_anew(before: Holding | None, after: Holding | None) -> set[str]:
    """Artifacts of which a node's cache says something else than it did."""
    old, new = before or Holding(), after or Holding()
    return {
        digest
        for digest in {*old.states, *new.states, *old.sources, *new.sources, *old.told_images_s, *new.told_images_s}
        if any(told.get(digest) != other.get(digest) for told, other in _sides(old, new))
    }


def _sides(old: Holding, new: Holding) -> tuple[tuple[Mapping[str, object], Mapping[str, object]], ...]:
    return (
        (old.states, new.states),
        (old.errors, new.errors),
        (old.fetched, new.fetched),
        (old.sources, new.sources),
        (old.told_images_s, new.told_images_s),
    )


def outlook(wanted: Sequence[str], node: Holding | None, sizes: Mapping[str, int], now_s: float) -> Outlook:
    """`node` None: it has no NodeCache, so nothing is ever staged there."""
    if node is None:
        return Outlook(None)
    if all(node.states.get(digest) is State.WARM for digest in wanted):
        return Outlook(0.0)
    if any(node.states.get(digest) is State.FAILED for digest in wanted):
        return Outlook(None, failed=True)
    if not all(digest in sizes or node.states.get(digest) is State.WARM for digest in wanted):
        return Outlook(None)
    backlog = backlog_of(node, sizes, now_s)
    more = [digest for digest in wanted if node.states.get(digest) not in (State.WARM, *_BUSY)]
    return Outlook(backlog.with_more_s(more, sizes))


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a node is at: seconds that it takes, at its rate."""

    left_s: float
    rate_bytes_per_s: float

    def with_more_s(self, digests: Iterable[str], sizes: Mapping[str, int]) -> float:
        """Until it has these too, none of which it is at."""
        return self.with_bytes_s(sum(sizes.get(digest, 0) for digest in digests))

    def with_bytes_s(self, more_bytes: int) -> float:
        """Until it has so many more."""
        return max(_LEAST_S, self.left_s + more_bytes / self.rate_bytes_per_s)


def backlog_of(node: Holding, sizes: Mapping[str, int], now_s: float, *, of_images: bool = False) -> Backlog:
    """Less the time since a stage was first seen. Models and images are fetched beside each other."""
    measured = node.rate_bytes_per_s
    if of_images and node.images is not None:
        measured = node.images.rate_bytes_per_s or measured
    rate = max(float(measured or UNMEASURED_BYTES_PER_S), 1.0)
    left_s = 0.0
    for digest, state in node.states.items():
        if state in _BUSY and (digest in node.are_images) is of_images:
            spent_s = now_s - node.since_s.get(digest, now_s) if state is State.STAGING else 0.0
            left_s += max(0.0, sizes.get(digest, 0) / rate - spent_s)
    return Backlog(left_s, rate)
