"""An API server of its own: what is registered here would meet everybody's pods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.apiserver import ApiServer
from cluster.kinds import install
from cluster.pods import OURS, Admission, applied
from servers.fixtures import require


@pytest.fixture(scope="session")
def admission_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With our kinds and our namespace."""
    require("kubernetes")
    with ApiServer(tmp_path_factory.mktemp("admission"), shared=True) as api:
        install(api)
        applied(api, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OURS}})
        yield api


@pytest.fixture(scope="session")
def admission(admission_api: ApiServer) -> Iterator[Admission]:
    """Serving, registered, trusted."""
    running = Admission(admission_api)
    try:
        running.start()
        running.register()
        yield running
    finally:
        running.processes.kill_all()


@pytest.fixture
def api(admission: Admission) -> ApiServer:
    return admission.api
