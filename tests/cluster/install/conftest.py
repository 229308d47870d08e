"""An API server of one's own: helm owns cluster-wide objects, and the doctor looks at them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster import kinds
from cluster.apiserver import ApiServer


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With our kinds and the namespace `prestage`."""
    with ApiServer(tmp_path_factory.mktemp("chart"), shared=True) as running:
        kinds.install(running)
        running.kubectl("create", "namespace", "prestage")
        yield running
