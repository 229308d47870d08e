"""What the story's tests share: a model in a bucket, and a server that reads it as a user's would."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import struct
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.installed import IMAGE, ROOT, Installed
from cluster.network import run
from cluster.node import Node
from cluster.rights import Audit
from cluster.whole import Cluster
from servers.hub import Hub
from servers.toxiproxy import Route
from servers.versitygw import Versitygw

REF = "s3://models/llama/v1/"
NEXT = "s3://models/llama/v2/"
SIZE_BYTES = 48 << 20
SERVER = """
import hashlib, http.server, json, os, pathlib
root = pathlib.Path("/models/llama")
def read():
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.iterdir())}
read()
try:
    (root / "new").write_text("x")
    wrote = "written"
except OSError as exc:
    wrote = exc.strerror
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        sums = read()
        body = json.dumps({"sums": sums, "uid": os.getuid(), "wrote": wrote}).encode()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Story:
    """Everything. `sums`, `next_sums`: SHA-256 of the files of REF and NEXT by name. `wire`: the way to the origin."""

    cluster: Cluster
    origin: Versitygw
    wire: Route
    hub: Hub
    installed: Installed
    audit: Audit
    sums: dict[str, str]
    next_sums: dict[str, str]

    @property
    def node(self) -> Node:
        """The only one."""
        [node] = self.cluster.nodes
        return node

    def pods(self, app: str) -> list[dict[str, Any]]:
        """Of namespace demo, oldest first."""
        said = json.loads(self.cluster.kubectl("get", "pods", "-n", "demo", "-l", f"app={app}", "-o", "json"))
        return sorted(said["items"], key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def explained(self, app: str) -> str:
        """Why a pod may not be up: for the message of a test that fails."""
        kubectl = self.cluster.api.try_kubectl
        events = kubectl("get", "events", "-n", "demo", "--sort-by=.lastTimestamp").stdout
        logs = "\n".join(
            self.installed.words(f"{one}")
            for one in ("daemonset/prestage-node", "deployment/prestage-broker", "deployment/prestage-planner")
        )
        return f"{kubectl('describe', 'pods', '-n', 'demo', '-l', f'app={app}').stdout}\n{events}\n{logs}"

    def available(self, app: str, *, timeout_s: int = 180) -> float:
        """Seconds until every replica of the Deployment is up."""
        started_s = time.monotonic()
        done = self.cluster.api.try_kubectl("rollout", "status", f"deployment/{app}", "-n", "demo", f"--timeout={timeout_s}s")
        assert done.returncode == 0, f"{done.stderr}\n{self.explained(app)}"
        return time.monotonic() - started_s

    def gone(self, app: str, *, timeout_s: int = 60) -> None:
        """The Deployment is deleted, and its pods have ended."""
        kubectl = self.cluster.kubectl
        kubectl("delete", "deployment", app, "-n", "demo", "--ignore-not-found", f"--timeout={timeout_s}s")
        kubectl("wait", "pod", "-n", "demo", "-l", f"app={app}", "--for=delete", f"--timeout={timeout_s}s")

    def told(self, question: Callable[[], object], what: str, *, timeout_s: float = 60) -> None:
        """Wait until it is so."""
        self.cluster.api.processes.wait_for(question, what=what, timeout_s=timeout_s)

    def trees(self) -> list[str]:
        """What pods hold mounted, by the store's own folders."""
        return run(*self.node.enter("/bin/ls", f"{ROOT}/mounts")).split()

    def events(self, pod: str, namespace: str = "demo") -> list[tuple[str, str]]:
        """Reason and message of each that is about a pod, oldest first."""
        about = f"--field-selector=involvedObject.kind=Pod,involvedObject.name={pod}"
        said = json.loads(self.cluster.kubectl("get", "events", "-n", namespace, about, "-o", "json"))
        items = sorted(said["items"], key=lambda one: one["metadata"]["creationTimestamp"])
        return [(one["reason"], one["message"]) for one in items]

    def parts(self, component: str) -> list[dict[str, Any]]:
        """Pods of ours that are not about to end, by name."""
        about = f"app.kubernetes.io/component={component}"
        said = json.loads(self.cluster.kubectl("get", "pods", "-n", "prestage", "-l", about, "-o", "json"))
        staying = (pod for pod in said["items"] if "deletionTimestamp" not in pod["metadata"])
        return sorted(staying, key=lambda pod: str(pod["metadata"]["name"]))

    def processes(self, pod: dict[str, Any]) -> dict[str, int]:
        """The first one of each container of a pod, as the node numbers them."""
        table = run(*self.node.enter(shutil.which("ctr") or "ctr", "-n", "k8s.io", "tasks", "ls"))
        pids = dict(line.split()[:2] for line in table.splitlines()[1:])
        ids = {one["name"]: one["containerID"].removeprefix("containerd://") for one in pod["status"]["containerStatuses"]}
        return {name: int(pids[one]) for name, one in ids.items()}

    def killed(self, pod: dict[str, Any]) -> None:
        """kill -9 of each: the kubelet starts them again."""
        for pid in self.processes(pod).values():
            run(*self.node.enter("/bin/kill", f"-{signal.SIGKILL.value}", str(pid)))

    def states(self) -> list[str]:
        """Of each artifact in the node's status: state and class of an error."""
        said = json.loads(self.cluster.kubectl("get", "nodecache", self.node.name, "-o", "json"))
        listed = said.get("status", {}).get("artifacts", [])
        return [f"{one['state']} {one.get('errorClass', '')}".strip() for one in listed]

    def answer(self, pod: dict[str, Any]) -> dict[str, Any]:
        """What the server in it says it read."""
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8000/", timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
        return said


def uploaded(origin: Versitygw, ref: str = REF, *, size_bytes: int = SIZE_BYTES) -> dict[str, str]:
    """A model in the bucket `models`, another one for each ref; its files' SHA-256."""
    values = random.Random(ref).randbytes(size_bytes)
    header = json.dumps({"w": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}).encode()
    files = {"config.json": b'{"model_type": "story"}', "model.safetensors": struct.pack("<Q", len(header)) + header + values}
    client = origin.client()
    if "models" not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket="models")
    for name, data in files.items():
        client.put_object(Bucket="models", Key=ref.removeprefix("s3://models/") + name, Body=data)
    client.close()
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def deployment(app: str, *, replicas: int = 1, ref: str = REF, **more: str) -> str:
    """A server as a careful user writes it: nobody's uid, a root that is read-only, one line for the model. `more`: annotations
    of ours by their last word."""
    asked = {"model.prestage.dev/llama": ref}
    if not ref.startswith("ref:"):  # a StagedModel carries its own
        asked["prestage.dev/credentials"] = "s3"
    asked |= {f"prestage.dev/{word}": value for word, value in more.items()}
    container = {
        "name": "server",
        "image": f"{IMAGE}:test",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", SERVER],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {"containers": [container], "securityContext": {"runAsUser": 1000}, "terminationGracePeriodSeconds": 1}
    template = {"metadata": {"labels": {"app": app}, "annotations": asked}, "spec": spec}
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": app, "namespace": "demo"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template},
        }
    )
