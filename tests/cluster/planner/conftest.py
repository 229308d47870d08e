"""The API server with our kinds."""

from __future__ import annotations

import pytest

from cluster.apiserver import ApiServer
from cluster.kinds import install


@pytest.fixture(scope="session")
def api_with_kinds(api_server: ApiServer) -> ApiServer:
    install(api_server)
    return api_server
