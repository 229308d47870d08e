"""What the planner and the services beside it ask of the API server is what their roles give: nothing missing, nothing unused.

Who may list may get: a `get` beside `list` is no more power, and need not be used.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from planning.asking import Asked, Used
from planning.cluster import QUICK, Cluster, running, until
from planning.objects import OURS, REF, artifact, digest, head, line, namespace, node, pod, replica_set, staged_model, template

from prestage.api.annotations import WARM_GATE
from prestage.cacher.errors import Denied
from prestage.control.admission.rbac import LEADER_RULES
from prestage.control.planning.app import CONTROLLER, SERVICES, Planner, PlannerConfig
from prestage.control.planning.decision_log import Recording
from prestage.control.planning.rbac import RULES
from prestage.kube.events import Book, EventType, Recorder, Said, Subject
from prestage.kube.ports import Object, uid_of
from prestage.kube.resources import DEPLOYMENTS, NODE_CACHES, NODES, PODS, STAGING_SCHEDULES
from prestage.wire.broker_client import BrokerSettings

A = digest(REF)
WEB: Object = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": head("web"), "spec": {"replicas": 1}}
POLICY: Object = {"apiVersion": OURS, "kind": "CachePolicy", "metadata": head("all", None), "spec": {"namespaceSelector": {}}}
POOL: Object = {
    "apiVersion": OURS,
    "kind": "StorePool",
    "metadata": head("pool", None),
    "spec": {"nodeSelector": {}, "root": "/mnt/a"},
}


SCHEDULE: Object = {
    "apiVersion": OURS,
    "kind": "StagingSchedule",
    "metadata": head("always"),
    "spec": {
        "artifacts": [{"name": "weights", "type": "Model", "modelRef": {"name": "llama"}}],
        "nodes": {"selector": {}},
        "windows": [{"name": "always"}],
    },
}


def allowed() -> set[Used]:
    return {(verb, rule.api_group, rule.resource) for rule in (*RULES, *LEADER_RULES) for verb in rule.verbs}


def test_every_right_is_used_and_none_is_missing() -> None:
    async def steps() -> set[Used]:
        cluster = Cluster()
        cluster.broker.refuse["ref:llama"] = Denied("hf://org/model is gated", hint="name a Secret")
        await cluster.put(namespace(), node("n1"), node("n2"), WEB, replica_set(), staged_model(), POLICY, POOL)
        owner = ("ReplicaSet", "web-abc")
        await cluster.api.create(STAGING_SCHEDULES, SCHEDULE)
        web = await cluster.api.get(DEPLOYMENTS, "web", namespace="team")
        await cluster.put(artifact(REF, line(uid_of(web))))
        await cluster.put(pod("bound", owner=owner, on="n1"), pod("gated", owner=owner, gates=[WARM_GATE]))
        asked = Asked(cluster.api)
        settings = BrokerSettings("https://nowhere", Path("none"), Path("none"))
        planner = Planner(asked, cluster.broker, PlannerConfig("prestage", settings, terms=QUICK, services=SERVICES), me="one")
        async with running(planner):
            await cluster.report("n1", artifacts=[{"digest": A, "state": "Warm"}])
            await until(lambda: {("patch", "", one) for one in ("pods", "pods/status", "nodes")} <= asked.used, seconds=20)
            statuses = {one for one in allowed() if one[1] == "prestage.dev" and one[2].endswith("/status")}
            await until(lambda: statuses <= asked.used, seconds=20)
            subject = Subject.of(PODS, await cluster.api.get(PODS, "bound", namespace="team"))
            recorder = Recorder(asked, controller=CONTROLLER, instance="one", book=Book(series_s=0.0))  # the planner's: 30 s
            saying = asyncio.create_task(recorder.run())
            for _ in range(2):  # the same again is a series
                recorder.say(Said(subject, "Again", "the same", "Staging", EventType.WARNING))
            await recorder.drained()
            saying.cancel()
            quick = Recording(asked, planner.board, "prestage", every_s=0.05, soon_s=0.02, pause_s=0.01)  # the planner's: 30 s
            log = asyncio.create_task(quick.run())
            await until(lambda: ("create", "", "configmaps") in asked.used)
            await cluster.put(pod("another", on="n1", made=template(ref="hf://org/other@main")))
            await until(lambda: ("update", "", "configmaps") in asked.used)
            log.cancel()
            await cluster.api.delete(NODES, "n2")
            await until(lambda: ("delete", "prestage.dev", NODE_CACHES.plural) in asked.used)
        return asked.used

    used, given = asyncio.run(steps()), allowed()
    assert used - given == set(), "asked for, and not given"
    no_more = {("get", group, resource) for verb, group, resource in given if verb == "list"}
    assert given - used - no_more == set(), "given, and never asked for"
