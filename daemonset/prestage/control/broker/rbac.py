"""What the broker may ask of the API server. Secrets and tokens of service accounts are given by each namespace itself.

`OPTED_IN` is what `kubectl prestage enable` prints for a namespace, with the names of its Secrets.
"""

from __future__ import annotations

from typing import Final

from prestage.control.broker.credentials import FETCHER
from prestage.kube.rbac import READ, Rule

_OURS: Final = "prestage.dev"
_FOLLOW: Final = ("list", "watch")
RULES: Final = (
    Rule("authentication.k8s.io", "tokenreviews", ("create",), namespaced=False),
    Rule("", "namespaces", READ, namespaced=False),
    Rule("", "pods", ("get",), namespaced=False),
    Rule("apps", "replicasets", ("get",), namespaced=False),
    Rule(_OURS, "origins", _FOLLOW, namespaced=False),
    Rule(_OURS, "origins/status", ("patch",), namespaced=False),
    Rule("", "nodes", ("get",), namespaced=False),
    Rule(_OURS, "storepools", _FOLLOW, namespaced=False),
    Rule(_OURS, "cachepolicies", _FOLLOW, namespaced=False),
    Rule(_OURS, "stagedmodels", READ, namespaced=False),
    Rule(_OURS, "stagedmodelgrants", _FOLLOW, namespaced=False),
    Rule(_OURS, "nodecaches", ("get",), namespaced=False),
    Rule(_OURS, "artifacts", (*READ, "create", "update"), namespaced=False),
    Rule(_OURS, "artifacts/status", ("update",), namespaced=False),
    Rule("coordination.k8s.io", "leases", ("get", "create", "delete"), namespaced=True),
    Rule("", "secrets", ("create",), namespaced=True),
    Rule("", "secrets", ("get", "update"), namespaced=True, names=("prestage-broker-tls",)),
    Rule("", "configmaps", ("get",), namespaced=True),
    Rule("", "configmaps", ("create", "patch"), namespaced=True),
)
OPTED_IN: Final = (
    Rule("", "secrets", ("get",), namespaced=True),
    Rule("", "serviceaccounts/token", ("create",), namespaced=True, names=(FETCHER,)),
)
