"""JSON patches (RFC 6902) that make one object another. Pure.

Lists grow at their end and change in place; one that shrinks is written anew. Nothing that is equal is touched, so that a
patch of what others wrote meanwhile keeps theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

from prestage.kube.ports import Object


def difference(before: object, after: object, at: str = "") -> list[Object]:
    """The steps from `before` to `after`. A member that is null counts as there: "add" replaces it."""
    if before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        steps: list[Object] = [{"op": "remove", "path": _below(at, key)} for key in before if key not in after]
        for key, value in after.items():
            steps += difference(before[key], value, _below(at, key)) if key in before else [_add(_below(at, key), value)]
        return steps
    if isinstance(before, list) and isinstance(after, list) and len(after) >= len(before):
        steps = []
        for number, (old, new) in enumerate(zip(before, after, strict=False)):
            steps += difference(old, new, f"{at}/{number}")
        return steps + [_add(f"{at}/-", value) for value in after[len(before) :]]
    return [{"op": "replace", "path": at, "value": after}]


def expected(path: str, value: object) -> Object:
    """The step that fails the whole patch where `path` holds something else."""
    return {"op": "test", "path": path, "value": value}


def _add(path: str, value: object) -> Object:
    return {"op": "add", "path": path, "value": value}


def _below(at: str, key: object) -> str:
    return f"{at}/{str(key).replace('~', '~0').replace('/', '~1')}"
