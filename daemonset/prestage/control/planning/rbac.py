"""What the planner asks of the API server. What its SERVICES ask beside that is in their own rooms."""

from __future__ import annotations

from typing import Final

from prestage.kube.rbac import READ, Rule

RULES: Final = (
    Rule("", "pods", READ, namespaced=False),
    Rule("", "nodes", READ, namespaced=False),
    Rule("", "namespaces", READ, namespaced=False),
    Rule("apps", "deployments", READ, namespaced=False),
    Rule("apps", "replicasets", READ, namespaced=False),
    Rule("apps", "statefulsets", READ, namespaced=False),
    Rule("batch", "cronjobs", READ, namespaced=False),
    Rule("autoscaling", "horizontalpodautoscalers", READ, namespaced=False),
    Rule("keda.sh", "scaledobjects", READ, namespaced=False),
    Rule("scheduling.k8s.io", "priorityclasses", READ, namespaced=False),
    Rule("prestage.dev", "stagingschedules", READ, namespaced=False),
    Rule("prestage.dev", "stagingschedules/status", ("patch",), namespaced=False),
    Rule("prestage.dev", "artifacts", READ, namespaced=False),
    Rule("prestage.dev", "stagedmodels", READ, namespaced=False),
    Rule("prestage.dev", "stagedmodels/status", ("patch",), namespaced=False),
    Rule("prestage.dev", "cachepolicies", READ, namespaced=False),
    Rule("prestage.dev", "cachepolicies/status", ("patch",), namespaced=False),
    Rule("prestage.dev", "storepools", READ, namespaced=False),
    Rule("prestage.dev", "storepools/status", ("patch",), namespaced=False),
    Rule("prestage.dev", "nodecaches", (*READ, "create", "patch", "delete"), namespaced=False),
    Rule("events.k8s.io", "events", ("create", "patch"), namespaced=False),
    Rule("", "configmaps", ("create",), namespaced=True),
    Rule("", "configmaps", ("get", "update"), namespaced=True, names=("prestage-decisions",)),
    Rule("coordination.k8s.io", "leases", ("create",), namespaced=True),
    Rule("coordination.k8s.io", "leases", ("get", "update"), namespaced=True, names=("prestage-planner",)),
)
