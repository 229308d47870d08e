"""Where the API server is, and how we are let in: flags, then the pod's service account, then a kubeconfig."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """See the fields."""

    kubeconfig: Path | None = None
    """A kubeconfig; None: the pod's service account where there is one, else KUBECONFIG, else ~/.kube/config."""
    context: str | None = None
    """Of the kubeconfig; None: its current one."""
    server: str | None = None
    """Another address for the same API server (a proxy, a tunnel)."""
    deadline_s: float = 30.0
    """Of one request, retries included. client-go's default, and less than the kubelet's patience."""
    connect_s: float = 5.0
    """Of one connection."""
    idle_s: float = 150.0
    """A watch on which nothing at all came for so long is taken for dead: bookmarks come once a minute."""
    user_agent: str = "prestage"
    """Who we say that we are, in audit logs."""

    @property
    def in_cluster(self) -> bool:
        """True in a pod with a service account, unless a kubeconfig was named."""
        return self.kubeconfig is None and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
