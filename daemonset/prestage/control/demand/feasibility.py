"""Where a pod may run, as the scheduler's filters have it: node name, selector, required affinity, taints, resources. Pure.

    misfit(needs, site)        None where it fits now, else what is in the way
    suits(needs, site)         the same without what others took: it could run there once they end

What is left out makes more nodes fit than do, never fewer: pod affinity, topology spread, host ports, volumes' zones, claims of
dynamic resources. Admission's gates, their release and the planner ask here, so that they never differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from prestage.api.policies import STARTUP_TAINT
from prestage.control.demand.amounts import accelerators, amounts_of, requests_of
from prestage.kube.ports import Object, metadata_of, name_of, uid_of

_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_ENDED = frozenset({"Succeeded", "Failed"})


class Misfit(StrEnum):
    """What is in the way, the first that is."""

    NODE_NAME = "NodeName"
    SELECTOR = "Selector"
    AFFINITY = "Affinity"
    TAINT = "Taint"
    TOO_SMALL = "TooSmall"
    """It asks for more than the node has."""
    TAKEN = "Taken"
    """Others hold what it asks for."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One requirement on a label, or on the field metadata.name."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes reads it."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return value is not None and _compares(value, self.operator, self.values)
        return False


@dataclass(frozen=True, slots=True)
class Term:
    """All must hold; one without any requirement selects nothing."""

    labels: tuple[Expression, ...] = ()
    fields: tuple[Expression, ...] = ()

    def holds(self, site: Site) -> bool:
        """Of a node."""
        if not self.labels and not self.fields:
            return False
        name = {"metadata.name": site.name}
        return all(one.holds(site.labels) for one in self.labels) and all(one.holds(name) for one in self.fields)


@dataclass(frozen=True, slots=True)
class Taint:
    """`effect`: NoSchedule or NoExecute; PreferNoSchedule keeps nobody away."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Toleration:
    """An empty key with Exists tolerates everything; an empty effect every effect."""

    key: str
    operator: str
    value: str
    effect: str

    def bears(self, taint: Taint) -> bool:
        """Whether the taint does not matter."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        if self.operator == "Exists":
            return True
        return bool(self.key) and self.value == taint.value


@dataclass(frozen=True, slots=True)
class Where:
    """The part of what a pod needs that does not depend on others: alike for all pods of a template."""

    node_name: str = ""
    selector: tuple[tuple[str, str], ...] = ()
    terms: tuple[Term, ...] | None = None
    """Any of them; None: no required affinity."""
    tolerations: tuple[Toleration, ...] = ()

    def misfit(self, site: Site) -> Misfit | None:
        """Taken as if the node were empty, and endless."""
        if self.node_name and self.node_name != site.name:
            return Misfit.NODE_NAME
        if any(site.labels.get(key) != value for key, value in self.selector):
            return Misfit.SELECTOR
        if self.terms is not None and not any(term.holds(site) for term in self.terms):
            return Misfit.AFFINITY
        if any(not any(one.bears(taint) for one in self.tolerations) for taint in site.taints):
            return Misfit.TAINT
        return None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a pod needs of a node. Hashable: pods of one template share one, and are told apart by it again and again."""

    where: Where
    requests: tuple[tuple[str, int], ...]
    """Thousandths, by name."""
    accelerators: int = field(init=False, repr=False, compare=False)
    """Devices that wait with the pod."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "accelerators", accelerators(dict(self.requests)))
        object.__setattr__(self, "_hash", hash((self.where, self.requests)))

    def __hash__(self) -> int:
        return self._hash

    def anywhere(self) -> Needs:
        """The same of a pod that has no node."""
        return self if not self.where.node_name else _shared(replace(self.where, node_name=""), self.requests)


@dataclass(frozen=True, slots=True)
class Site:
    """A node as a pod meets it. `free`: thousandths that nobody asked for yet."""

    name: str
    uid: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    allocatable: Mapping[str, int]
    free: Mapping[str, int] = field(default_factory=dict)


def needs_of(pod: Object) -> Needs:
    """Of a pod as the API server has it."""
    spec = _mapping(pod.get("spec"))
    selector = tuple(sorted((str(key), str(value)) for key, value in _mapping(spec.get("nodeSelector")).items()))
    affinity = _mapping(_mapping(spec.get("affinity")).get("nodeAffinity"))
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = tuple(_term(one) for one in _list(_mapping(required).get("nodeSelectorTerms"))) if required is not None else None
    tolerations = tuple(_toleration(one) for one in _list(spec.get("tolerations")))
    where = Where(str(spec.get("nodeName") or ""), selector, terms, tolerations)
    return _shared(where, tuple(sorted(requests_of(spec).items())))


@lru_cache(maxsize=4096)
def _shared(where: Where, requests: tuple[tuple[str, int], ...]) -> Needs:
    """One object for all pods alike: to compare is to look whether it is the same."""
    return Needs(where, requests)


def site_of(node: Object, taken: Iterable[Mapping[str, int]] = ()) -> Site:
    """`taken`: the requests of each pod that is bound to it and has not ended (`takes_room`). Our startup taint keeps nobody
    away: it goes once the node is filled, and what it is filled with is what may run there then."""
    spec, status = _mapping(node.get("spec")), _mapping(node.get("status"))
    labels = {str(key): str(value) for key, value in _mapping(metadata_of(node).get("labels")).items()}
    taints = {taint for one in _list(spec.get("taints")) if (taint := _taint(one)).key != STARTUP_TAINT}
    if spec.get("unschedulable") is True:
        taints.add(Taint(_UNSCHEDULABLE, "", "NoSchedule"))
    matter = sorted((one for one in taints if one.effect in ("NoSchedule", "NoExecute")), key=lambda one: (one.key, one.effect))
    allocatable = amounts_of(status.get("allocatable"))
    free = dict(allocatable)
    for requests in taken:
        for name, amount in requests.items():
            free[name] = free.get(name, 0) - amount
    return Site(name_of(node), uid_of(node), labels, tuple(matter), allocatable, free)


def takes_room(pod: Object) -> str | None:
    """The node whose room it takes; None where it takes none."""
    bound = _mapping(pod.get("spec")).get("nodeName")
    ended = _mapping(pod.get("status")).get("phase") in _ENDED
    return str(bound) if bound and not ended else None


def suits(needs: Needs, site: Site) -> Misfit | None:
    """Whether it could run there once others end."""
    found = needs.where.misfit(site)
    if found is None and any(amount > site.allocatable.get(name, 0) for name, amount in needs.requests):
        return Misfit.TOO_SMALL
    return found


def misfit(needs: Needs, site: Site) -> Misfit | None:
    """Whether it fits there now."""
    found = suits(needs, site)
    if found is None and slots(needs, site) < 1:
        return Misfit.TAKEN
    return found


def slots(needs: Needs, site: Site) -> int:
    """How many such pods the free room holds, whatever else is in the way."""
    return max(0, min((site.free.get(name, 0) // amount for name, amount in needs.requests if amount > 0), default=0))


def _compares(value: str, operator: str, values: tuple[str, ...]) -> bool:
    try:
        left, right = int(value), int(values[0])
    except (ValueError, IndexError):
        return False
    return left > right if operator == "Gt" else left < right


def _term(given: Mapping[str, object]) -> Term:
    return Term(
        tuple(_expression(one) for one in _list(given.get("matchExpressions"))),
        tuple(_expression(one) for one in _list(given.get("matchFields"))),
    )


def _expression(given: Mapping[str, object]) -> Expression:
    values = given.get("values")
    return Expression(
        str(given.get("key", "")),
        str(given.get("operator", "")),
        tuple(str(one) for one in values) if isinstance(values, list) else (),
    )


def _taint(given: Mapping[str, object]) -> Taint:
    return Taint(str(given.get("key", "")), str(given.get("value") or ""), str(given.get("effect", "")))


def _toleration(given: Mapping[str, object]) -> Toleration:
    words = [str(given.get(name) or "") for name in ("key", "operator", "value", "effect")]
    return Toleration(words[0], words[1] or "Equal", words[2], words[3])


def _mapping(given: object) -> Mapping[str, object]:
    return given if type(given) is dict or isinstance(given, Mapping) else {}


def _list(given: object) -> list[Mapping[str, object]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
