"""What a process may ask of the API server, as data: the chart writes roles from it, a test compares it with what is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

READ: Final = ("get", "list", "watch")
"""What a Follower needs."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`resource`: plural, with its subresource as "pods/status". `api_group`: "" is the core.

    `namespaced`: in our own namespace only (a Role); else everywhere (a ClusterRole). `names`: these objects only; they do not
    bound `create`, `list` and `watch`.
    """

    api_group: str
    resource: str
    verbs: tuple[str, ...]
    namespaced: bool
    names: tuple[str, ...] = ()

    def allows(self, verb: str, api_group: str, resource: str) -> bool:
        """Whether it is one of those."""
        return verb in self.verbs and (api_group, resource) == (self.api_group, self.resource)


def policy_rules(rules: Iterable[Rule], *, namespaced: bool) -> list[dict[str, object]]:
    """`rules` of a Role (`namespaced`) or ClusterRole."""
    made = list[dict[str, object]]()
    for one in rules:
        if one.namespaced is not namespaced:
            continue
        said: dict[str, object] = {"apiGroups": [one.api_group], "resources": [one.resource], "verbs": list(one.verbs)}
        made.append(said | ({"resourceNames": list(one.names)} if one.names else {}))
    return made
