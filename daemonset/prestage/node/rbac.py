"""What the node's two containers ask of the API server, each with an account of its own."""

from __future__ import annotations

from typing import Final

from prestage.kube.rbac import READ, Rule

AGENT: Final = (
    Rule("prestage.dev", "nodecaches", READ, namespaced=False),
    Rule("prestage.dev", "nodecaches/status", ("patch",), namespaced=False),
    Rule("prestage.dev", "storepools", ("list",), namespaced=False),
    Rule("", "nodes", ("get", "patch"), namespaced=False),
)
"""Its own NodeCache, and of its own Node the startup taint only: what a role cannot say, admission policies on the node-name
claim do."""
CSI: Final = (Rule("authentication.k8s.io", "tokenreviews", ("create",), namespaced=False),)
RULES: Final = (*AGENT, *CSI)
"""Of both, where they share an account."""
