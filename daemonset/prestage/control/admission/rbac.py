"""What `prestage control admission` asks of the API server, and what the services beside the planner ask."""

from __future__ import annotations

from typing import Final

from prestage.control.admission.manifests import GROUP, NAME
from prestage.kube.rbac import READ, Rule

_WORLD: Final = (
    Rule("", "pods", READ, namespaced=False),
    Rule("", "nodes", READ, namespaced=False),
    Rule("prestage.dev", "nodecaches", READ, namespaced=False),
    Rule("prestage.dev", "artifacts", READ, namespaced=False),
    Rule("apps", "replicasets", READ, namespaced=False),
    Rule("apps", "deployments", READ, namespaced=False),
)
"""gates.world, but for the lease: who leads has it."""

RULES: Final = (
    *_WORLD,
    Rule("coordination.k8s.io", "leases", READ, namespaced=True),
    Rule("", "pods", ("patch",), namespaced=False),
    Rule(GROUP, "mutatingwebhookconfigurations", (*READ, "patch"), namespaced=False, names=(NAME,)),
    Rule(GROUP, "validatingwebhookconfigurations", (*READ, "patch"), namespaced=False, names=(NAME,)),
    Rule("", "secrets", ("create",), namespaced=True),
    Rule("", "secrets", ("get", "update"), namespaced=True, names=("prestage-admission-tls",)),
    Rule("", "configmaps", ("create",), namespaced=True),
    Rule("", "configmaps", ("get", "patch"), namespaced=True, names=("prestage-admission-ca",)),
)
"""Of the Deployment `admission`. `pods patch`: the guard takes gates off while nobody leads. Apply creates: both verbs."""

LEADER_RULES: Final = (
    *_WORLD,
    Rule("", "pods", ("patch",), namespaced=False),
    Rule("", "pods/status", ("patch",), namespaced=False),
    Rule("", "nodes", ("patch",), namespaced=False),
    Rule("events.k8s.io", "events", ("create", "patch"), namespaced=False),
)
"""Of what runs beside the planner: gates, places, the Warm condition. The planner's own rules come on top."""

UNGATE_RULES: Final = (Rule("", "pods", ("list", "patch"), namespaced=False),)
"""Of `prestage control ungate`, the hook of an uninstall."""
