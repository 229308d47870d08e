"""pytest-xdist, which hands a lane (see lanes) to one worker as a whole. Its own `loadgroup` finds no group with pytest 9."""

from __future__ import annotations

from lanes import lane_of
from xdist.scheduler import LoadScopeScheduling


class LaneScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Lanes in the order in which their first tests were collected, with --no-loadscope-reorder."""

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid) or nodeid
