"""Unmodified transformers in a pod on a real kubelet: by name, offline, as uid 1000 with a read-only root. Run by hand (`make
frameworks`): torch is 4.6 GB, and is lent to the pod by a hostPath of this machine.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from story import Story

from cluster.installed import IMAGE
from prestage.bench.minilm import model_folder

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server"),
]
HOUSE = Path(__file__).resolve().parents[3]
TORCH = HOUSE / ".tools" / "torch" / "lib" / Path(sysconfig.get_path("purelib")).parent.name / "site-packages"
LIBRARIES = Path("/usr/lib") / f"{platform.machine()}-linux-gnu"
"""What torch is linked with and the image, which has no torch, lacks."""
NAME = "sentence-transformers/all-MiniLM-L6-v2"
LOADING = f"""
import json, os, sys
sys.path[:0] = os.environ["PACKAGES"].split(":")
import torch
from transformers import AutoModel, AutoTokenizer
torch.set_num_threads(1)
tokens = AutoTokenizer.from_pretrained("{NAME}")(["a model that was there"], return_tensors="pt")
with torch.no_grad():
    said = AutoModel.from_pretrained("{NAME}")(**tokens).last_hidden_state
try:
    open("/wrote", "w")
    root = "writable"
except OSError as exc:
    root = exc.strerror
print(json.dumps({{"uid": os.getuid(), "root": root, "shape": list(said.shape), "sum": round(float(said.abs().sum()), 2)}}))
"""


def packages() -> list[str]:
    """Where torch and transformers are, and what they share with our own environment."""
    return [str(TORCH.resolve()), str(Path(sysconfig.get_path("purelib")).resolve())]


def pod(**annotations: str) -> str:
    """As a careful user writes it."""
    asked = {"model.prestage.dev/minilm": f"hf://{NAME}@main"}
    asked |= {f"prestage.dev/{key}": said for key, said in annotations.items()}
    lent = {**{path: path for path in packages()}, str(LIBRARIES): "/lent"}
    mounts = [{"name": f"lent-{at}", "mountPath": path, "readOnly": True} for at, path in enumerate(lent.values())]
    volumes = [{"name": f"lent-{at}", "hostPath": {"path": path, "type": "Directory"}} for at, path in enumerate(lent)]
    env = {"PACKAGES": ":".join(packages()), "HOME": "/nowhere", "LD_LIBRARY_PATH": "/usr/local/lib:/lent"}
    container = {
        "name": "loads",
        "image": f"{IMAGE}:test",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", LOADING],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }
    spec = {"containers": [container], "volumes": volumes, "restartPolicy": "Never", "securityContext": {"runAsUser": 1000}}
    metadata = {"name": "loads", "namespace": "demo", "annotations": asked}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def here() -> dict[str, Any]:
    """What the same code says on this machine, from the files themselves."""
    code = LOADING.replace(f'"{NAME}"', repr(str(model_folder())))
    env = {**os.environ, "PACKAGES": ":".join(packages()), "HF_HUB_OFFLINE": "1"}
    python = HOUSE / ".tools" / "torch" / "bin" / "python"
    said = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def repository(story: Story) -> Story:
    """The hub has the model."""
    shutil.copytree(model_folder(), story.hub.root / NAME)
    story.hub.reload()
    return story


def test_transformers_finds_the_model_by_its_name_and_says_what_it_says_from_the_files(
    repository: Story,
) -> None:
    if not TORCH.is_dir():
        pytest.skip("no torch: make torch")
    story, kubectl = repository, repository.cluster.kubectl
    kubectl("apply", "-f", "-", stdin=pod(layout="HuggingFace"))

    def phase() -> str:
        return kubectl("get", "pod", "loads", "-n", "demo", "-o", "jsonpath={.status.phase}")

    story.told(lambda: phase() in ("Succeeded", "Failed"), "the pod's end", timeout_s=240)
    words = story.cluster.api.try_kubectl("logs", "loads", "-n", "demo").stdout
    assert phase() == "Succeeded", f"{words}\n{kubectl('describe', 'pod', 'loads', '-n', 'demo')}"
    said, expected = json.loads(words.splitlines()[-1]), here()
    print(f"\nin the pod {said}, here {expected}")
    assert (said["uid"], said["root"]) == (1000, "Read-only file system")
    assert (said["shape"], said["sum"]) == (expected["shape"], expected["sum"])
    kubectl("delete", "pod", "loads", "-n", "demo", "--timeout=60s")
