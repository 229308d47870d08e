"""The status of an object that cannot be read: it says so itself, for whoever looks at it. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Final

from prestage.api.values import ConditionStatus
from prestage.kube.ports import Object, metadata_of

UNREADABLE: Final = "Unreadable"


def unreadable_status(message: str, seen: Object, now: datetime.datetime) -> dict[str, object]:
    """`Ready` is False."""
    generation = metadata_of(seen).get("generation")
    observed = {"observedGeneration": generation} if isinstance(generation, int) else {}
    said = {
        "type": "Ready",
        "status": str(ConditionStatus.FALSE),
        "reason": UNREADABLE,
        "message": message,
        "lastTransitionTime": _since(seen) or f"{now:%Y-%m-%dT%H:%M:%SZ}",
    }
    return {"conditions": [{**said, **observed}], **observed}


def _since(seen: Object) -> str | None:
    """Since when it says so already."""
    status = seen.get("status")
    rows = status.get("conditions") if isinstance(status, Mapping) else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and (row.get("type"), row.get("reason")) == ("Ready", UNREADABLE):
            return str(row.get("lastTransitionTime"))
    return None
