"""An agent's token, bound to its pod and with it to its node, on a real API server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pods.objects import DIGEST, container

from cluster.apiserver import ApiServer
from cluster.pods import OURS, account, applied
from prestage.control.admission.manifests import node_policy, startup_policy
from prestage.kube.client import KubeApi
from prestage.kube.rbac import Rule
from prestage.kube.settings import KubeSettings
from prestage.node.rbac import AGENT
from prestage.node.starting import Filling, Starting

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes")]

ALL = ("get", "list", "watch", "create", "update", "patch", "delete")
TOO_MUCH = (
    Rule("prestage.dev", "nodecaches", ALL, namespaced=False),
    Rule("prestage.dev", "nodecaches/status", ALL, namespaced=False),
    Rule("", "nodes", ALL, namespaced=False),
    Rule("", "nodes/status", ALL, namespaced=False),
)
"""More than the chart gives: the policies alone must hold."""
STARTING = {"key": "prestage.dev/starting", "effect": "NoSchedule"}
GPU = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


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
    applied(api, *startup_policy(namespace=OURS, account="prestage-node"))
    for name in ("mine", "other"):
        applied(api, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": [STARTING, GPU]}})
        cache = {"metadata": {"name": name}, "spec": {"nodeUID": "u"}}
        applied(api, {"apiVersion": "prestage.dev/v1alpha1", "kind": "NodeCache", **cache})
    api.processes.wait_for(
        lambda: (
            "denied request" in api.try_kubectl("delete", "nodecache", "other", "--dry-run=server", kubeconfig=_plain(api)).stderr
        ),
        what="the policy",
    )
    api.processes.wait_for(
        lambda: (
            "denied request"
            in api.try_kubectl("label", "node", "other", "a=b", "--dry-run=server", kubeconfig=_plain(api)).stderr
        ),
        what="the policy on Nodes",
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


def on_node(api: ApiServer, kubeconfig: Path, node: str, patch: object, *more: str) -> str:
    done = api.try_kubectl("patch", "node", node, "--type=merge", "-p", json.dumps(patch), *more, kubeconfig=kubeconfig)
    return done.stdout + done.stderr


def taints(api: ApiServer, node: str) -> list[dict[str, Any]]:
    found = json.loads(api.kubectl("get", "node", node, "-o", "json"))["spec"].get("taints", [])
    assert isinstance(found, list)
    return found


def test_of_its_node_an_agent_takes_the_startup_taint_off_and_writes_nothing_else(api_of_agents: ApiServer, agent: Path) -> None:
    api, there = api_of_agents, taints(api_of_agents, "mine")
    left = [one for one in there if one["key"] != STARTING["key"]]
    assert len(left) == len(there) - 1 >= 1
    only = "an agent takes prestage.dev/starting off its Node and changes nothing else"
    assert "its own Node only: its token is of node mine" in on_node(api, agent, "other", {"spec": {"taints": left}})
    for patch in (
        {"spec": {"taints": None}},
        {"spec": {"taints": [*left, {"key": "more", "effect": "NoSchedule"}]}},
        {"spec": {"taints": [*there, {"key": "more", "effect": "NoSchedule"}]}},
        {"spec": {"taints": left, "unschedulable": True}},
        {"spec": {"taints": left, "providerID": "x://y"}},
        {"spec": {"taints": left}, "metadata": {"labels": {"gpu": "h100"}}},
        {"spec": {"taints": left}, "metadata": {"annotations": {"a": "b"}}},
        {"spec": {"taints": left}, "metadata": {"finalizers": ["example.org/kept"]}},
        {"metadata": {"labels": {"gpu": "h100"}}},
    ):
        assert only in on_node(api, agent, "mine", patch), patch
    status = {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}
    assert only in on_node(api, agent, "mine", status, "--subresource=status")
    assert only in api.try_kubectl("delete", "node", "mine", kubeconfig=agent).stderr
    made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "new"}}
    assert only in api.try_kubectl("create", "-f", "-", stdin=json.dumps(made), kubeconfig=agent).stderr
    assert "its token is of node (none)" in on_node(api, _plain(api), "mine", {"spec": {"taints": left}})
    assert "patched" in on_node(api, api.kubeconfig, "other", {"metadata": {"labels": {"a": "b"}}}), "others are not touched"
    assert taints(api, "mine") == there


def test_an_agent_with_the_rights_of_the_chart_takes_it_off(api_of_agents: ApiServer, agent: Path) -> None:
    api, there = api_of_agents, taints(api_of_agents, "mine")
    account(api, "prestage-node", AGENT)
    api.processes.wait_for(
        lambda: "Forbidden" in api.try_kubectl("delete", "node", "mine", "--dry-run=server", kubeconfig=agent).stderr,
        what="the narrower role",
    )

    async def started() -> None:
        async with await KubeApi.connect(KubeSettings(kubeconfig=agent)) as connected:
            await Starting("mine", Filling, now=lambda: 4e9).run(connected)

    try:
        asyncio.run(asyncio.wait_for(started(), 60))
    finally:
        account(api, "prestage-node", TOO_MUCH)
    assert taints(api, "mine") == [one for one in there if one["key"] != STARTING["key"]]
