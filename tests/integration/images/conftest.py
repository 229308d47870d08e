"""One containerd, of the first and, where it was built, of the second major version, and one open registry for a module."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from layers.node import NEEDS, Node, grpc_kept

from servers.containerd import Containerd
from servers.fixtures import require
from servers.registry import Registry


@pytest.fixture(scope="module", params=["containerd", "containerd-2"])
def containerd(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    require(*NEEDS, request.param)
    if platform.machine() != "x86_64":
        pytest.skip("the test images are for amd64")
    folder = Path(tempfile.mkdtemp(prefix="ctrd-"))  # a socket's path has 107 characters
    try:
        with grpc_kept(), Containerd(folder, program=request.param) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def node(containerd: Containerd) -> Iterator[Node]:
    """Clean before and after."""
    one = Node(containerd)
    yield one
    one.clean()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    require("docker-registry")
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running
