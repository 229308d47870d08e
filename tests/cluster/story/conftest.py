"""One cluster with one node, an S3 server that it reaches, Prestage installed by its chart, and a namespace that takes part."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from story import NEXT, Story, uploaded

from cluster.installed import Installed
from cluster.rights import Audit
from cluster.whole import Cluster
from prestage.kubectl.cli import kubectl_prestage
from servers.fixtures import require
from servers.hub import Hub
from servers.registry import PASSWORD, USER, Registry
from servers.toxiproxy import Route, Toxiproxy
from servers.versitygw import Versitygw

_ORIGIN = "guarded-registry"


@pytest.fixture(scope="package")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    require("kubernetes-node", "helm", "versitygw", "toxiproxy-server")
    folder = tmp_path_factory.mktemp("story")
    audit = Audit(folder / "audit")
    with (
        Cluster(folder / "cluster", services=True, shared=True, flags=audit.flags) as cluster,
        Versitygw(folder / "s3", host=cluster.ip) as origin,
        Toxiproxy(folder / "toxiproxy") as toxiproxy,
        Hub(folder / "hub", host=cluster.ip) as hub,
    ):
        sums, next_sums = uploaded(origin), uploaded(origin, NEXT)
        wire = toxiproxy.route(origin.port, host=cluster.ip)
        near = {"allowedCIDRs": [f"{cluster.ip}/32"]}
        s3 = {"type": "S3", "endpoint": wire.url(""), "region": origin.region, "pathStyle": True, **near}
        huggingface = {"type": "HuggingFace", "endpoint": hub.endpoint, **near}
        installed = Installed(cluster, folder, origins={"s3": s3, "huggingface": huggingface})
        installed.install()
        enabled = CliRunner().invoke(kubectl_prestage, ["enable", "demo", "--secret", "s3"]).output
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=enabled)
        keys = (
            f"--from-literal=AWS_ACCESS_KEY_ID={origin.access_key}",
            f"--from-literal=AWS_SECRET_ACCESS_KEY={origin.secret_key}",
        )
        cluster.kubectl("create", "secret", "generic", "s3", "-n", "demo", *keys)
        yield Story(cluster, origin, wire, hub, installed, audit, sums, next_sums)


@pytest.fixture(scope="module")
def guarded(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Route]]:
    """With a password: the node is handed it, for its Origin says so. The namespace has the login. Behind a way of its own."""
    require("docker-registry")
    kubectl, folder = story.cluster.kubectl, tmp_path_factory.mktemp("registry")
    with (
        Registry(folder / "registry", password=True, address=story.cluster.ip) as running,
        Toxiproxy(folder / "toxiproxy") as toxiproxy,
    ):
        way = toxiproxy.route(running.port, host=story.cluster.ip)
        running.host = f"{story.cluster.ip}:{way.port}"
        story.node.mirror(running.host, f"http://{running.host}")
        spec = {"type": "OCI", "endpoint": f"http://{running.host}", "allowedCIDRs": [f"{story.cluster.ip}/32"]}
        origin = {"apiVersion": "prestage.dev/v1alpha1", "kind": "Origin", "metadata": {"name": _ORIGIN}}
        kubectl("apply", "-f", "-", stdin=json.dumps({**origin, "spec": {**spec, "handPasswords": True}}))
        enabled = CliRunner().invoke(kubectl_prestage, ["enable", "demo", "--secret", "s3", "--secret", "regcred"]).output
        kubectl("apply", "--server-side", "-f", "-", stdin=enabled)
        login = (f"--docker-server={running.host}", f"--docker-username={USER}", f"--docker-password={PASSWORD}")
        kubectl("create", "secret", "docker-registry", "regcred", "-n", "demo", *login)
        yield running, way
        kubectl("delete", "secret", "regcred", "-n", "demo")
        kubectl("delete", "origin", _ORIGIN)


@pytest.fixture(scope="module")
def registry(guarded: tuple[Registry, Route]) -> Registry:
    return guarded[0]


@pytest.fixture(scope="module")
def to_registry(guarded: tuple[Registry, Route]) -> Route:
    return guarded[1]
