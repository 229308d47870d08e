"""What asking for nodes needs of the API server, beside what the planner may; given where `capacity.enabled` is set."""

from __future__ import annotations

from typing import Final

from prestage.kube.rbac import READ, Rule

RULES: Final = (
    Rule("autoscaling.x-k8s.io", "capacitybuffers", (*READ, "create", "patch", "delete"), namespaced=False),
    Rule("", "podtemplates", ("create", "patch", "delete"), namespaced=False),
)
LETTING_GO_RULES: Final = (Rule("autoscaling.x-k8s.io", "capacitybuffers", ("list", "delete"), namespaced=False),)
"""Of the hook of an uninstall, beside what it may anyway."""
