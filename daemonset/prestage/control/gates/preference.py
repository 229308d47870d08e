"""The soft preference for warm nodes: a preferred node affinity term on a label of our own. Pure.

    node    prestage.dev/place: <hash keyed by the node's UID>        written once in a node's life (places.py)
    pod     preferred: prestage.dev/place In [those of warm nodes]     weight 100; no term where none is warm

Never `kubernetes.io/hostname` (Karpenter refuses pods with it), never required (a cold autoscaled pool would wait for ever).
The term names nodes, not artifacts: what is warm may change after it was written without a label to write, and nobody learns
from a node's labels what it holds.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from prestage.control.podspec import part
from prestage.kube.ports import Object, metadata_of, uid_of

PLACE_LABEL: Final = "prestage.dev/place"
PLACES_MAX: Final = 32
"""Nodes in a term: a pod lands on one; 32 keep the pod small."""
WEIGHT: Final = 100


def place(node: Object) -> str:
    """The label's value for this node, and for no other."""
    return _hashed(uid_of(node))


@lru_cache(maxsize=16384)
def _hashed(uid: str) -> str:
    return hmac.new(uid.encode(), b"prestage.dev/place v1", hashlib.sha256).hexdigest()[:20]


def place_of(node: Object) -> str | None:
    """As the node carries it; None where it does not (yet), or carries another's."""
    found = part(metadata_of(node), "labels").get(PLACE_LABEL)
    return str(found) if found == place(node) else None


def has_preference(pod: Object) -> bool:
    """For places: a term of ours."""
    return any(map(_is_our_term, _terms(pod)))


def with_preference(pod: Object, places: Sequence[str]) -> Object:
    """`pod` preferring `places`, in the place of a term of ours that is there. Without places: no term of ours."""
    wanted = [_term(places)] if places else []
    there = _terms(pod)
    others = [term for term in there if not _is_our_term(term)]
    if there == others and not wanted:
        return pod
    made = copy.deepcopy(dict(pod))
    below: object = made
    for key in ("spec", "affinity", "nodeAffinity"):
        assert isinstance(below, dict)
        if not isinstance(below.get(key), dict):
            below[key] = {}
        below = below[key]
    assert isinstance(below, dict)
    below[_PREFERRED] = [*others, *wanted]
    return made


_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _terms(pod: Object) -> list[object]:
    found = part(pod, "spec", "affinity", "nodeAffinity").get(_PREFERRED)
    return found if isinstance(found, list) else []


def _term(places: Sequence[str]) -> Object:
    expression = {"key": PLACE_LABEL, "operator": "In", "values": sorted(places)[:PLACES_MAX]}
    return {"weight": WEIGHT, "preference": {"matchExpressions": [expression]}}


def _is_our_term(term: object) -> bool:
    expressions = part(term, "preference").get("matchExpressions")
    found = expressions if isinstance(expressions, list) else []
    return [one.get("key") for one in found if isinstance(one, dict)] == [PLACE_LABEL]
