"""Admission as it is installed, on a real API server: its own process, its own rights, its own certificate.

Ways in are chosen by labels of a test's namespace: `test.prestage.dev/webhook`, `policy` (MutatingAdmissionPolicy), `refuse`
(ValidatingAdmissionPolicy), instead of the one label that opens all of them to users.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
import hashlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast
from urllib.request import urlopen

from pods import objects

from cluster.apiserver import ApiServer
from cluster.processes import Processes
from prestage.control.admission.manifests import Client, manifests
from prestage.control.admission.rbac import LEADER_RULES, RULES
from prestage.control.beside import steer
from prestage.control.gates.world import World
from prestage.kube.client import KubeApi
from prestage.kube.events import Recorder
from prestage.kube.ports import Object
from prestage.kube.rbac import Rule, policy_rules
from prestage.kube.settings import KubeSettings
from servers.programs import free_port

OURS = "prestage"
_NUMBERS = itertools.count(1)
_WAYS = {
    "MutatingWebhookConfiguration": "webhook",
    "ValidatingWebhookConfiguration": "webhook",
    "MutatingAdmissionPolicy": "policy",
    "MutatingAdmissionPolicyBinding": "policy",
    "ValidatingAdmissionPolicy": "refuse",
    "ValidatingAdmissionPolicyBinding": "refuse",
}


def applied(api: ApiServer, *objects: Object) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    api.kubectl("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-", stdin=json.dumps(listed))


def selecting(manifest: Object) -> Object:
    """With the label of its way in the place of `prestage.dev/enabled`."""
    way = f'"test.prestage.dev/{_WAYS[str(manifest["kind"])]}"'
    return cast(Object, json.loads(json.dumps(manifest).replace('"prestage.dev/enabled"', way)))


def account(api: ApiServer, name: str, rules: Iterable[Rule]) -> None:
    """A service account of ours with exactly these rights."""
    subject = [{"kind": "ServiceAccount", "name": name, "namespace": OURS}]
    named = {"name": name, "namespace": OURS}
    rbac = "rbac.authorization.k8s.io"
    objects = list[Object]([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named}])
    for kind, namespaced in (("Role", True), ("ClusterRole", False)):
        meta = named if namespaced else {"name": f"{OURS}-{name}"}
        ref = {"apiGroup": rbac, "kind": kind, "name": meta["name"]}
        objects.append(
            {"apiVersion": f"{rbac}/v1", "kind": kind, "metadata": meta, "rules": policy_rules(rules, namespaced=namespaced)}
        )
        objects.append(
            {"apiVersion": f"{rbac}/v1", "kind": f"{kind}Binding", "metadata": meta, "roleRef": ref, "subjects": subject}
        )
    applied(api, *objects)


def kubeconfig_of(api: ApiServer, name: str) -> Path:
    """As the service account."""
    token = api.kubectl("create", "token", name, "-n", OURS).strip()
    return api.authority.token_kubeconfig(api.folder / f"{name}.conf", api.url, token)


class Admission:
    """`prestage control admission`, one process for each replica."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.processes = Processes(api.folder, shared=True)
        self.ports: dict[str, tuple[int, int]] = {}
        account(api, "prestage-admission", RULES)
        self.kubeconfig = kubeconfig_of(api, "prestage-admission")

    def start(self, name: str = "admission") -> None:
        """On the same ports when it is started again; returns when it serves."""
        listen, health = self.ports.setdefault(name, (free_port(), free_port()))
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "prestage.cacher.cli",
            "control",
            "admission",
            "--kubeconfig",
            self.kubeconfig,
        ]
        argv += ["--listen", f"127.0.0.1:{listen}", "--health", f"127.0.0.1:{health}", "--namespace", OURS]
        argv += ["--name", "127.0.0.1", "--certificate-every", "0.5"]
        self.processes.start(name, argv)
        self.processes.wait_for(
            lambda: self.metric("prestage_admission_whole", name) == 1.0, what="admission serving", timeout_s=60
        )

    def register(self, name: str = "admission") -> None:
        """With the API server; admission itself writes the caBundle."""
        client = Client(OURS, url=f"https://127.0.0.1:{self.ports[name][0]}")
        applied(self.api, *(selecting(one) for one in manifests(client)))
        self.processes.wait_for(lambda: self.bundle() not in ("", None), what="the caBundle", timeout_s=60)

    def bundle(self) -> str | None:
        jsonpath = "jsonpath={.webhooks[0].clientConfig.caBundle}"
        return self.api.kubectl("get", "mutatingwebhookconfiguration", OURS, "-o", jsonpath)

    def kill(self, name: str = "admission") -> None:
        self.processes.kill(name)

    def metric(self, line: str, name: str = "admission") -> float | None:
        """A sample by its name and labels; None where there is none."""
        try:
            with urlopen(f"http://127.0.0.1:{self.ports[name][1]}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        found = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(line)]
        return sum(map(float, found)) if found else 0.0


def opened(api: ApiServer, *ways: str) -> str:
    """A new namespace with these ways in, and its service account (nobody else is there to make it)."""
    name = f"pods-{next(_NUMBERS)}"
    labels = {"prestage.dev/enabled" if way == "enabled" else f"test.prestage.dev/{way}": "true" for way in ways}
    applied(
        api,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}},
    )
    return name


def create(api: ApiServer, namespace: str, pod: Mapping[str, object], *, dry: bool = False) -> subprocess.CompletedProcess[str]:
    """By kubectl; stdout is the object as JSON."""
    made = copy.deepcopy(dict(pod))
    made["metadata"] = {**cast("dict[str, object]", made["metadata"]), "namespace": namespace}
    words = ["create", "-o", "json", "-f", "-", *(["--dry-run=server"] if dry else [])]
    return api.try_kubectl(*words, stdin=json.dumps(made))


def created(api: ApiServer, namespace: str, pod: Mapping[str, object], *, dry: bool = False) -> dict[str, dict[str, object]]:
    done = create(api, namespace, pod, dry=dry)
    assert done.returncode == 0, done.stderr
    return cast("dict[str, dict[str, object]]", json.loads(done.stdout))


class Scene:
    """A node with one accelerator, its NodeCache and an Artifact, as agents, planner and broker write them: nobody else is there.

    Pods of the scene go to its node only, by a node selector.
    """

    def __init__(self, api: ApiServer, namespace: str, *, size_bytes: int = 1_000_000_000) -> None:
        self.api, self.namespace = api, namespace
        self.node, self.job = f"node-{namespace}", f"job-{namespace}"
        self.digest = "sha256:" + hashlib.sha256(namespace.encode()).hexdigest()
        applied(api, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node, "labels": {"scene": namespace}}})
        gpus = {"pods": "9", "nvidia.com/gpu": "1"}
        self._status("node", self.node, {"allocatable": gpus, "capacity": gpus})
        if "not-ready" in api.kubectl("get", "node", self.node, "-o", "jsonpath={.spec.taints}"):
            api.kubectl("taint", "node", self.node, "node.kubernetes.io/not-ready-")
        self.uid = api.kubectl("get", "node", self.node, "-o", "jsonpath={.metadata.uid}")
        there = objects.artifact(self.digest, size=size_bytes, uid=self.job)
        named = {"name": self.digest.replace(":", "-"), "namespace": namespace}
        applied(api, {**there, "metadata": named, "status": {}})
        self._status("artifact", named["name"], cast("dict[str, object]", there["status"]), "-n", namespace)
        applied(api, {**objects.node_cache(self.node, {}), "spec": {"nodeUID": self.uid}, "status": {}})
        self.lead()

    def lead(self, age_s: float = -3600.0) -> None:
        """The planner's lease. Nobody renews it here: by default it is well for an hour."""
        applied(self.api, objects.lease(age_s, now=datetime.datetime.now(datetime.UTC)))

    def state(self, state: str) -> None:
        """Of the artifact on the node, as the agent says it."""
        cache = objects.node_cache(self.node, {self.digest: state})
        self._status("nodecache", self.node, cast("dict[str, object]", cache["status"]))

    def pod(self, name: str, annotations: Mapping[str, str] | None = None, *gates: Object) -> dict[str, object]:
        """Of the Job that the artifact is recorded for; it claims the accelerator."""
        spec = {"nodeSelector": {"scene": self.namespace}, **({"schedulingGates": list(gates)} if gates else {})}
        made = objects.pod(annotations, name=name, gpus=1, spec=spec)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": self.job, "controller": True}
        return {**made, "metadata": {**cast("dict[str, object]", made["metadata"]), "ownerReferences": [owner]}}

    def stored(self, name: str) -> dict[str, dict[str, object]]:
        """A pod as it stands."""
        return cast(
            "dict[str, dict[str, object]]", json.loads(self.api.kubectl("get", "pod", name, "-n", self.namespace, "-o", "json"))
        )

    def _status(self, kind: str, name: str, status: Mapping[str, object], *more: str) -> None:
        patch = json.dumps({"status": status})
        self.api.kubectl("patch", kind, name, *more, "--subresource=status", "--type=merge", "-p", patch)


@contextlib.contextmanager
def leader(api: ApiServer) -> Iterator[World]:
    """`steer` on a loop of its own, as the planner's service account."""
    account(api, "prestage-planner", LEADER_RULES)
    settings = KubeSettings(kubeconfig=kubeconfig_of(api, "prestage-planner"))
    world, loop = World(OURS, leading=True), asyncio.new_event_loop()

    async def work() -> None:
        async with await KubeApi.connect(settings) as client, asyncio.TaskGroup() as group:
            recorder = Recorder(client, controller="prestage.dev/planner", instance="planner-1")
            for service in (world.follow(client), recorder.run(), steer(client, world, recorder)):
                group.create_task(service)

    def run() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    task = loop.create_task(work())
    thread = threading.Thread(target=run, name="leader")
    thread.start()
    try:
        api.processes.wait_for(lambda: world.whole, what="the mirrors")
        yield world
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
