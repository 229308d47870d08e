"""An API server of its own: what is registered here would meet everybody's pods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.apiserver import ApiServer
from cluster.kinds import install
from cluster.pods import OURS, Admission, applied
from servers.fixtures import require


@pytest.fixture(scope="session")
def admission(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admission]:
    """Serving, registered, trusted."""
    require("kubernetes")
    with ApiServer(tmp_path_factory.mktemp("admission"), shared=True) as api:
        install(api)
        applied(api, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OURS}})
        running = Admission(api)
        try:
            running.start()
            running.register()
            yield running
        finally:
            running.processes.kill_all()


@pytest.fixture
def api(admission: Admission) -> ApiServer:
    return admission.api
