"""The API server with our kinds."""

from __future__ import annotations

import pytest

from cluster.apiserver import ApiServer
from cluster.kinds import install


@pytest.fixture(scope="session")
def api_of_all(api_server: ApiServer) -> ApiServer:
    install(api_server)
    return api_server


@pytest.fixture
def api_with_kinds(api_of_all: ApiServer) -> ApiServer:
    """Without the nodes and the demand of tests before: a planner plans for the whole cluster."""
    api_of_all.kubectl("label", "namespaces", "--all", "prestage.dev/enabled-")
    api_of_all.kubectl("delete", "nodes", "--all", "--wait=false")
    api_of_all.kubectl("delete", "nodecaches", "--all", "--wait=false")
    return api_of_all
