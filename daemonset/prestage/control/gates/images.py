"""Images beside models: which of a pod's are known, and whether a node has them, will have them, or leaves them. Pure.

A pod is held for an image only where somebody is at it, or could be told to be in a moment. Never for one that the broker refuses
(one that it has not resolved yet counts only where the namespace has had images of that repository), on a node that stages none,
where staging it failed, where it has no room, or whose `images` container does not take its plan in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prestage.api.nodes import State
from prestage.control.gates.prediction import Holding, backlog_of

ARCHITECTURES: Final = ("amd64", "arm64")
"""On which `images` containers run: those of our own image."""
TAKEN_S: Final = 10.0
"""A node that was told to stage an image says so within a second or two; one that is silent for so long is not counted on."""
_BUSY: Final = (State.STAGING, State.PENDING)


@dataclass(frozen=True, slots=True)
class PodImages:
    """Of one pod, as far as they are resolved: (architecture, ref, artifact) each. `is_awaited`: the broker has yet to answer
    about one, of a repository of which the namespace has had images."""

    rows: tuple[tuple[str, str, str], ...] = ()
    is_awaited: bool = False

    @property
    def artifacts(self) -> frozenset[str]:
        """Of every architecture."""
        return frozenset(artifact for _, _, artifact in self.rows)

    def on(self, architecture: str) -> dict[str, str]:
        """Artifact to ref, where a node of it needs them."""
        return {artifact: ref for where, ref, artifact in self.rows if where == architecture}


NO_IMAGES: Final = PodImages()


class Standing(StrEnum):
    """Of all images of a pod on one node. NONE: there is nothing to wait for. LEFT: to the kubelet. POSSIBLE: to the kubelet,
    unless the next plan says otherwise."""

    NONE = "None"
    WARM = "Warm"
    COMING = "Coming"
    POSSIBLE = "Possible"
    LEFT = "Left"


@dataclass(frozen=True, slots=True)
class ImageOutlook:
    """`ready_in_s`: while COMING."""

    standing: Standing = Standing.NONE
    ready_in_s: float = 0.0

    @property
    def is_settled(self) -> bool:
        """A pod that comes there waits for no image that we know of."""
        return self.standing in (Standing.NONE, Standing.WARM)


def with_awaited(found: ImageOutlook, node: Holding | None, *, is_awaited: bool) -> ImageOutlook:
    """Where one is not resolved yet that may be planned in a moment."""
    stages = node is not None and node.images is not None
    return ImageOutlook(Standing.POSSIBLE) if is_awaited and stages and found.is_settled else found


def image_outlook(wanted: Sequence[str], node: Holding | None, sizes: Mapping[str, int], now_s: float) -> ImageOutlook:
    """`wanted`: artifacts of its architecture."""
    if not wanted or node is None or node.images is None:
        return ImageOutlook()
    missing = [one for one in wanted if node.states.get(one) is not State.WARM]
    if not missing:
        return ImageOutlook(Standing.WARM)
    if any(one not in sizes or node.states.get(one) is State.FAILED for one in missing):
        return ImageOutlook(Standing.LEFT)
    if all(_is_coming(one, node, now_s) for one in missing):
        untaken = [one for one in missing if node.states.get(one) not in _BUSY]
        return ImageOutlook(Standing.COMING, backlog_of(node, sizes, now_s, of_images=True).with_more_s(untaken, sizes))
    is_ignored = any(one in node.told_images_s and not _is_coming(one, node, now_s) for one in missing)
    has_room = sum(sizes[one] for one in wanted) <= node.images.budget_bytes
    return ImageOutlook(Standing.POSSIBLE if has_room and not is_ignored else Standing.LEFT)


def _is_coming(artifact: str, node: Holding, now_s: float) -> bool:
    """It is at it; or it was told to, and had no time to say so."""
    told_s = node.told_images_s.get(artifact)
    return told_s is not None and (node.states.get(artifact) in _BUSY or now_s - told_s < TAKEN_S)
