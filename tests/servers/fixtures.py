"""Thin pytest fixtures over the servers. A server that this machine lacks skips the test with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.certs import Authority
from servers.hostile import Hostile
from servers.hub import Hub
from servers.nginx import Nginx
from servers.programs import lacking
from servers.proxy import Proxy
from servers.toxiproxy import Toxiproxy
from servers.versitygw import Versitygw


def require(*words: str) -> None:
    """Skip the running test unless each program or power (see servers.programs.lacking) is here."""
    for word in words:
        if reason := lacking(word):
            pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        require(*mark.args)


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    """A hostile server without files: `hostile.put(path, content)`."""
    with Hostile() as server:
        yield server


@pytest.fixture
def forward_proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """An empty hub: write folders into `hub.root`, then `hub.reload()`."""
    root = tmp_path / "hub"
    root.mkdir()
    with Hub(root) as running:
        yield running


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Nginx]:
    """HTTP and HTTPS over `nginx.docroot`, empty at first."""
    require("nginx")
    docroot = tmp_path_factory.mktemp("docroot")
    with Nginx(docroot, tmp_path_factory.mktemp("nginx"), authority=authority) as running:
        yield running


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versitygw]:
    """One S3 server for the whole run: each test makes buckets of its own."""
    require("versitygw")
    with Versitygw(tmp_path_factory.mktemp("versitygw")) as running:
        yield running


@pytest.fixture(scope="session")
def versitygw_tls(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Versitygw]:
    require("versitygw")
    with Versitygw(tmp_path_factory.mktemp("versitygw-tls"), authority=authority) as running:
        yield running


@pytest.fixture(scope="session")
def toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    require("toxiproxy-server")
    with Toxiproxy(tmp_path_factory.mktemp("toxiproxy")) as running:
        yield running
