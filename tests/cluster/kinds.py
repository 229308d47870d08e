"""Our kinds on a real API server."""

from __future__ import annotations

from pathlib import Path

from cluster.apiserver import ApiServer

CRDS = Path(__file__).resolve().parents[2] / "daemonset" / "chart-crds" / "templates" / "crds.yaml"


def install(api: ApiServer, manifest: str | None = None) -> None:
    """Apply the definitions (those of the chart unless given), and wait until they are served."""
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest or CRDS.read_text())
    api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
