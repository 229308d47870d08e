"""What a namespace needs to take part, as objects for Git: its label, and what the broker may read in it. Pure.

The broker reads by name only. An RBAC rule with an empty list of names would allow every name: without names there is no rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prestage.api.annotations import ENABLED_LABEL
from prestage.kube.ports import Object

BROKER: Final = "prestage-broker"
FETCHER: Final = "prestage-fetcher"
"""The one service account of a namespace that the broker asks tokens of (workload identity)."""


def objects(namespace: str, *, secrets: Sequence[str], fetcher: bool, control_namespace: str) -> list[Object]:
    """In the order in which they can be applied."""
    made: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {ENABLED_LABEL: "true"}}}
    ]
    rules: list[Object] = []
    if secrets:
        rules.append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": sorted(set(secrets))})
    if fetcher:
        made.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": FETCHER, "namespace": namespace}})
        token = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": [FETCHER]}
        rules.append(token)
    if rules:
        made += [_role(namespace, rules), _binding(namespace, control_namespace)]
    return made


def _role(namespace: str, rules: list[Object]) -> Object:
    head = {"name": BROKER, "namespace": namespace}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": head, "rules": rules}


def _binding(namespace: str, control_namespace: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": BROKER, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": BROKER},
        "subjects": [{"kind": "ServiceAccount", "name": BROKER, "namespace": control_namespace}],
    }
