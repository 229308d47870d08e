"""What the story's tests share: a model in a bucket, and a server that reads it as a user's would."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

from cluster.installed import IMAGE, Installed
from cluster.rights import Audit
from cluster.whole import Cluster
from servers.versitygw import Versitygw

REF = "s3://models/llama/v1/"
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
    """Everything. `sums`: SHA-256 of the model's files by name."""

    cluster: Cluster
    origin: Versitygw
    installed: Installed
    audit: Audit
    sums: dict[str, str]

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

    def answer(self, pod: dict[str, Any]) -> dict[str, Any]:
        """What the server in it says it read."""
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8000/", timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
        return said


def uploaded(origin: Versitygw) -> dict[str, str]:
    """A model in the bucket `models`; its files' SHA-256."""
    values = random.Random(7).randbytes(SIZE_BYTES)
    header = json.dumps({"w": {"dtype": "U8", "shape": [SIZE_BYTES], "data_offsets": [0, SIZE_BYTES]}}).encode()
    files = {"config.json": b'{"model_type": "story"}', "model.safetensors": struct.pack("<Q", len(header)) + header + values}
    client = origin.client()
    client.create_bucket(Bucket="models")
    for name, data in files.items():
        client.put_object(Bucket="models", Key=f"llama/v1/{name}", Body=data)
    client.close()
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def deployment(app: str, *, replicas: int = 1, annotations: dict[str, str] | None = None) -> str:
    """A server as a careful user writes it: nobody's uid, a root that is read-only, one line for the model."""
    asked = {"model.prestage.dev/llama": REF, "prestage.dev/credentials": "s3"}
    container = {
        "name": "server",
        "image": f"{IMAGE}:test",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", SERVER],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {"containers": [container], "securityContext": {"runAsUser": 1000}, "terminationGracePeriodSeconds": 1}
    template = {"metadata": {"labels": {"app": app}, "annotations": asked if annotations is None else annotations}, "spec": spec}
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": app, "namespace": "demo"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template},
        }
    )
