"""When it will be warm: stages one after the other in their order, at the rate that nine of ten beat."""

from __future__ import annotations

from collections.abc import Iterable


def ready_at(stages: Iterable[tuple[str, int]], *, rate_bytes_per_s: float | None, now: float) -> dict[str, float | None]:
    """`stages`: artifact and bytes still to come, in the order in which they are done. None: without a rate nobody can tell."""
    made: dict[str, float | None] = {}
    ahead = 0
    for artifact, left_bytes in stages:
        ahead += left_bytes
        if ahead == 0:
            made[artifact] = now
        else:
            made[artifact] = None if not rate_bytes_per_s or rate_bytes_per_s <= 0 else now + ahead / rate_bytes_per_s
    return made


def late_by_s(ready: float | None, ready_by: float | None, now: float) -> float | None:
    """Seconds after `ready_by` (None: now)."""
    if ready is None:
        return None
    return max(0.0, ready - (now if ready_by is None else ready_by))
