"""Fixtures over the real Kubernetes. Where it cannot be had a test is skipped with the reason.

An API server is shared by the whole run: a test works in its own `namespace`, and leaves the server up. What a test stores
beside namespaces carries the namespace's name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.apiserver import ApiServer
from cluster.whole import Cluster
from servers.fixtures import require

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """etcd and kube-apiserver only."""
    require("kubernetes")
    with ApiServer(tmp_path_factory.mktemp("kubernetes"), shared=True) as running:
        yield running


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A new one. It stays: nobody is there to delete what is in it."""
    name = f"test-{next(_NUMBERS)}"
    api_server.ask("/api/v1/namespaces", method="POST", body={"metadata": {"name": name}})
    return name


@pytest.fixture(scope="session")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A whole cluster with one real node."""
    require("kubernetes-node")
    with Cluster(tmp_path_factory.mktemp("one-node")) as running:
        yield running


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[Cluster]:
    """A whole cluster with two real nodes, for one test."""
    require("kubernetes-node")
    with Cluster(tmp_path, nodes=2) as running:
        yield running
