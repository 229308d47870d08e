"""With a real scheduler, controllers and kubelet: an annotated Deployment is staged where its pods land, through a rollout."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import pytest
from planning.real import digest_of, listed, place, stages, until

from cluster.kinds import install
from cluster.node import PAUSE
from cluster.whole import Cluster
from prestage.kube.resources import NAMESPACES

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes-node")]
HOME, TEAM = "planner-home", "planner-team"
REF, NEXT = "hf://org/model@main", "hf://org/model@v2"


def deployment(ref: str, *, ready: bool = True) -> str:
    """Its pods run; where not `ready` a rollout to it stands still, with old and new side by side."""
    container: dict[str, object] = {"name": "c", "image": PAUSE, "imagePullPolicy": "Never"}
    container["command"] = ["/bin/busybox", "sleep", "600"]
    if not ready:
        container["readinessProbe"] = {"exec": {"command": ["/bin/busybox", "false"]}}
    annotations = {"model.prestage.dev/llama": ref}
    template = {"metadata": {"labels": {"app": "web"}, "annotations": annotations}, "spec": {"containers": [container]}}
    template["spec"] |= {"terminationGracePeriodSeconds": 0}  # type: ignore[operator]  # made right above
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    metadata = {"name": "web", "namespace": TEAM}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def test_an_annotated_deployment_is_staged_where_its_pods_land(one_node: Cluster, tmp_path: Path) -> None:
    async def test() -> None:
        node = one_node.nodes[0].name
        kubectl = partial(asyncio.to_thread, one_node.kubectl)
        await asyncio.to_thread(install, one_node.api)
        for name in (HOME, TEAM):
            await kubectl("create", "namespace", name)
        async with place(one_node.api, tmp_path, HOME) as (here, api, broker):
            with here.planner("only") as log:
                await kubectl("apply", "-f", "-", stdin=deployment(REF))
                await until(partial(stages, api, node), log=log)  # the namespace is not in: nothing is asked
                await kubectl("wait", "-n", TEAM, "--for=condition=Available", "deployment/web", "--timeout=60s")
                assert broker.asked == []
                await api.patch(NAMESPACES, TEAM, {"metadata": {"labels": {"prestage.dev/enabled": "true"}}})
                await until(partial(stages, api, node, digest_of(REF, 1)), log=log)

                broker.revision = 2
                await kubectl("scale", "-n", TEAM, "deployment/web", "--replicas=2")
                await kubectl("wait", "-n", TEAM, "--for=jsonpath={.status.readyReplicas}=2", "deployment/web", "--timeout=60s")
                assert await listed(api, node) == {digest_of(REF, 1)}

                await kubectl("apply", "-f", "-", stdin=deployment(NEXT, ready=False))
                await until(partial(stages, api, node, digest_of(REF, 1), digest_of(NEXT, 2)), log=log)
                await kubectl("apply", "-f", "-", stdin=deployment(REF))
                await until(partial(stages, api, node, digest_of(REF, 1)), log=log)  # rolled back: the same revision
                assert [asked.ref for asked in broker.asked] == [REF, NEXT]

                await kubectl("delete", "-n", TEAM, "deployment/web", "--timeout=60s")
                await until(partial(stages, api, node), log=log)
        await kubectl("delete", "namespace", HOME, TEAM, "--wait=false")  # the cluster is shared
        await kubectl("delete", "nodecache", node, "--timeout=60s")

    async def bounded() -> None:
        async with asyncio.timeout(240):
            await test()

    asyncio.run(bounded())
