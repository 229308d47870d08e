"""How the store's tests see files: small ones stand for large ones."""

from __future__ import annotations

import pytest

from prestage.cacher.store import ingest


@pytest.fixture(autouse=True)
def _journaled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are small so that crashes are cheap, and have a journal all the same; but for tests of little ones."""
    if "little" not in request.node.name:
        monkeypatch.setattr(ingest, "LIGHT_BYTES", -1)
