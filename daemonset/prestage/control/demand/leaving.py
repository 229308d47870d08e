"""Nodes that are away, and nodes that will be gone soon, by their taints. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prestage.control.demand.feasibility import Taint

AWAY: Final = frozenset(
    {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/unschedulable",
        "DeletionCandidateOfClusterAutoscaler",
    }
)
"""Nothing new is staged there for now: it may come back, or stay."""
LEAVING: Final = frozenset(
    {
        "node.kubernetes.io/unschedulable",
        "node.kubernetes.io/out-of-service",
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "aws-node-termination-handler/spot-itn",
        "aws-node-termination-handler/rebalance-recommendation",
        "aws-node-termination-handler/scheduled-maintenance",
        "aws-node-termination-handler/asg-lifecycle-termination",
        "cloud.google.com/impending-node-termination",
    }
)
"""Cordoned to be drained, chosen by Karpenter or the autoscaler, or about to be taken back (spot): its pods will need another."""


def is_away(taints: Iterable[Taint]) -> bool:
    """Whether nothing new is staged there."""
    return any(taint.key in AWAY or taint.key in LEAVING for taint in taints)


def is_leaving(taints: Iterable[Taint]) -> bool:
    """Whether it will be gone soon."""
    return any(taint.key in LEAVING for taint in taints)
