"""An agent's token, bound to its pod and with it to its node, on a real API server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pods.objects import DIGEST, container

from cluster.apiserver import ApiServer
from cluster.pods import OURS, account, applied
from prestage.control.admission.manifests import node_policy
from prestage.kube.rbac import Rule

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]

ALL = ("get", "list", "watch", "create", "update", "patch", "delete")
TOO_MUCH = (
    Rule("prestage.dev", "nodecaches", ALL, namespaced=False),
    Rule("prestage.dev", "nodecaches/status", ALL, namespaced=False),
)
"""More than the chart gives: the policy alone must hold."""


@pytest.fixture(scope="module")
def agent(api_of_agents: ApiServer) -> Path:
    """Of the agent on node `mine`: a token as the kubelet would ask for it."""
    api = api_of_agents
    spec = {"nodeName": "mine", "serviceAccountName": "prestage-node", "containers": [container()]}
    applied(api, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent", "namespace": OURS}, "spec": spec})
    token = api.kubectl(
        "create", "token", "prestage-node", "-n", OURS, "--bound-object-kind=Pod", "--bound-object-name=agent"
    ).strip()
    return api.authority.token_kubeconfig(api.folder / "agent.conf", api.url, token)


@pytest.fixture(scope="module")
def api_of_agents(admission_api: ApiServer) -> ApiServer:
    api = admission_api
    account(api, "prestage-node", TOO_MUCH)
    applied(api, *node_policy(namespace=OURS, account="prestage-node"))
    for name in ("mine", "other"):
        applied(api, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        cache = {"metadata": {"name": name}, "spec": {"nodeUID": "u"}}
        applied(api, {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", **cache})
    api.processes.wait_for(
        lambda: (
            "denied request" in api.try_kubectl("delete", "nodecache", "other", "--dry-run=server", kubeconfig=_plain(api)).stderr
        ),
        what="the policy",
    )
    return api


def _plain(api: ApiServer) -> Path:
    token = api.kubectl("create", "token", "prestage-node", "-n", OURS).strip()
    return api.authority.token_kubeconfig(api.folder / "plain.conf", api.url, token)


def patched(api: ApiServer, kubeconfig: Path, node: str, patch: object, *more: str) -> str:
    done = api.try_kubectl("patch", "nodecache", node, "--type=merge", "-p", json.dumps(patch), *more, kubeconfig=kubeconfig)
    return done.stdout + done.stderr


STATUS = {"status": {"artifacts": [{"digest": DIGEST, "state": "Warm"}]}}


def test_its_own_status_is_its_to_write(api_of_agents: ApiServer, agent: Path) -> None:
    assert "patched" in patched(api_of_agents, agent, "mine", STATUS, "--subresource=status")


def test_everything_else_is_refused_whatever_its_role_says(api_of_agents: ApiServer, agent: Path) -> None:
    api = api_of_agents
    assert "its own node only: its token is of node mine" in patched(api, agent, "other", STATUS, "--subresource=status")
    assert "the status of a NodeCache only" in patched(api, agent, "mine", {"spec": {"plan": "x"}})
    gone = api.try_kubectl("delete", "nodecache", "mine", kubeconfig=agent).stderr
    assert "the status of a NodeCache only" in gone
    made = {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": "new"}, "spec": {"nodeUID": "u"}}
    assert (
        "the status of a NodeCache only" in api.try_kubectl("create", "-f", "-", stdin=json.dumps(made), kubeconfig=agent).stderr
    )


def test_a_token_without_a_node_writes_nothing(api_of_agents: ApiServer, agent: Path) -> None:
    assert agent.exists()
    said = patched(api_of_agents, _plain(api_of_agents), "mine", STATUS, "--subresource=status")
    assert "its token is of node (none)" in said


def test_others_are_not_touched_by_the_policy(api_of_agents: ApiServer) -> None:
    assert "patched" in patched(api_of_agents, api_of_agents.kubeconfig, "mine", {"spec": {"plan": "p1"}})
