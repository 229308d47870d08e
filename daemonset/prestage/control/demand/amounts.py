"""Kubernetes quantities of resources in whole thousandths, as the scheduler adds them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from prestage.api.texts import quantity

Amounts = Mapping[str, int]
"""Resource name to thousandths."""
PODS: Final = "pods"


@lru_cache(maxsize=4096)
def thousandths(text: str) -> int:
    """500m is 500, 2 is 2000, 1Gi is 2**30 * 1000; rounded up. What is no quantity is 0: the API server lets none through."""
    try:
        return max(0, math.ceil(quantity(text) * 1000))
    except ValueError:
        return 0


def amounts_of(stated: object) -> dict[str, int]:
    """Of a ResourceList as JSON has it."""
    if not isinstance(stated, Mapping):
        return {}
    return {str(name): thousandths(str(value)) for name, value in stated.items()}


def requests_of(spec: Mapping[str, object]) -> dict[str, int]:
    """What the scheduler reserves for a pod: its containers and sidecars together, or the largest init container where that is
    more; what the pod states as a whole instead; overhead; and one of `pods`."""
    running: dict[str, int] = {}
    for one in _containers(spec, "containers"):
        _add(running, _requests(one))
    sidecars: dict[str, int] = {}
    largest: dict[str, int] = {}
    for one in _containers(spec, "initContainers"):
        asked = _requests(one)
        if one.get("restartPolicy") == "Always":
            _add(sidecars, asked)
            asked = dict(sidecars)
        else:
            asked = _sum(asked, sidecars)
        for name, amount in asked.items():
            largest[name] = max(largest.get(name, 0), amount)
    _add(running, sidecars)
    total = {name: max(running.get(name, 0), largest.get(name, 0)) for name in running.keys() | largest.keys()}
    total |= _requests(spec)
    _add(total, amounts_of(spec.get("overhead")))
    total[PODS] = 1000
    return {name: amount for name, amount in sorted(total.items()) if amount}


def accelerators(requests: Amounts) -> int:
    """How many devices wait: extended resources, as nvidia.com/gpu."""
    return sum(amount // 1000 for name, amount in requests.items() if "/" in name and not name.startswith("kubernetes.io/"))


def _containers(spec: Mapping[str, object], field: str) -> Iterable[Mapping[str, object]]:
    found = spec.get(field)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _requests(holder: Mapping[str, object]) -> dict[str, int]:
    resources = holder.get("resources")
    return amounts_of(resources.get("requests")) if isinstance(resources, Mapping) else {}


def _add(total: dict[str, int], more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _sum(left: Amounts, right: Amounts) -> dict[str, int]:
    total = dict(left)
    _add(total, right)
    return total
