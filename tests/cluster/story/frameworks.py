"""Unmodified transformers and vLLM in pods on a real kubelet: by name, offline, as uid 1000 with a read-only root. Run by hand
(`make frameworks`): each has an environment of 5 GB, which is lent to the pod by hostPaths of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from story import Story
from story.lending import HOUSE, OURS, lend, packages_of, python_of

from cluster.installed import IMAGE
from prestage.bench.minilm import model_folder

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server"),
]
TMP = "/tmp"
"""The one place that it may write to: torch wants one when it is imported, vLLM takes its locks there."""
MINILM, LLAMA = "sentence-transformers/all-MiniLM-L6-v2", "org/llama"
WHO = """
import json, os
try:
    open("/wrote", "w")
    root = "writable"
except OSError as exc:
    root = exc.strerror
print("WHO " + json.dumps({"uid": os.getuid(), "root": root}), flush=True)
"""
LOADING = """
import json, sys
import torch
from transformers import AutoModel, AutoTokenizer
torch.set_num_threads(1)
tokens = AutoTokenizer.from_pretrained(sys.argv[1])(["a model that was there"], return_tensors="pt")
with torch.no_grad():
    said = AutoModel.from_pretrained(sys.argv[1])(**tokens).last_hidden_state
print("RESULT " + json.dumps({"shape": list(said.shape), "sum": round(float(said.abs().sum()), 2)}))
"""
GENERATING = (HOUSE / "tests" / "engines" / "vllm_offline.py").read_text()
MAKING = "import sys; from pathlib import Path; from models import llama; llama(Path(sys.argv[1]), tied=False)"


@dataclass(frozen=True, slots=True)
class Framework:
    """In a pod of this name. `arguments` go to `code` after the model."""

    name: str
    environment: str
    packages: tuple[Path, ...]
    code: str
    model: str
    arguments: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None

    @property
    def python(self) -> Path:
        """Its own interpreter on this machine."""
        return python_of(self.environment)


TRANSFORMERS = Framework("transformers", "torch", (packages_of("torch"), OURS), LOADING, MINILM)
VLLM = Framework(
    "vllm",
    "vllm",
    (packages_of("vllm"),),
    GENERATING,
    LLAMA,
    arguments=("safetensors", "prestage"),
    env={
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCHDYNAMO_DISABLE": "1",  # the image has no compiler
        "OMP_NUM_THREADS": "1",
        "USER": "serving",
    },
)


def pod(it: Framework) -> str:
    """As a careful user writes it."""
    container = {
        "name": "loads",
        "image": f"{IMAGE}:test",
        "imagePullPolicy": "Never",
        "command": ["sh", "-ec", 'python3 -c "$WHO"; exec python3 -c "$CODE" "$@"', "sh", it.model, *it.arguments],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "tmp", "mountPath": TMP}],
    }
    spec: dict[str, Any] = {"containers": [container], "restartPolicy": "Never", "securityContext": {"runAsUser": 1000}}
    spec["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    lend(spec, *it.packages, env={"HOME": TMP, **(it.env or {}), "WHO": WHO, "CODE": it.code})
    asked = {"model.prestage.dev/model": f"hf://{it.model}@main", "prestage.dev/layout": "HuggingFace"}
    metadata = {"name": it.name, "namespace": "demo", "annotations": asked}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def told(words: str, word: str) -> list[dict[str, Any]]:
    """What follows it in its lines."""
    return [json.loads(line.removeprefix(word)) for line in words.splitlines() if line.startswith(word)]


def here(it: Framework, folder: Path, home: Path) -> list[dict[str, Any]]:
    """What the same code says on this machine, from the files themselves."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(home), **(it.env or {})}
    argv = [str(it.python), "-c", it.code, str(folder), *it.arguments]
    done = subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return told(done.stdout, "RESULT ")


def there(story: Story, it: Framework, folder: Path) -> list[dict[str, Any]]:
    """What it says in its pod, when the hub has `folder` under its name."""
    shutil.copytree(folder, story.hub.root / it.model)
    story.hub.reload()
    kubectl = story.cluster.kubectl
    kubectl("apply", "-f", "-", stdin=pod(it))

    def phase() -> str:
        return kubectl("get", "pod", it.name, "-n", "demo", "-o", "jsonpath={.status.phase}")

    story.told(lambda: phase() in ("Succeeded", "Failed"), "the pod's end", timeout_s=400)
    words = story.cluster.api.try_kubectl("logs", it.name, "-n", "demo").stdout
    assert phase() == "Succeeded", f"{words[-6000:]}\n{kubectl('describe', 'pod', it.name, '-n', 'demo')}"
    assert told(words, "WHO ") == [{"uid": 1000, "root": "Read-only file system"}]
    kubectl("delete", "pod", it.name, "-n", "demo", "--timeout=60s")
    story.hub.disconnect()
    return told(words, "RESULT ")


def test_transformers_finds_the_model_by_its_name_and_says_what_it_says_from_the_files(story: Story, tmp_path: Path) -> None:
    if not TRANSFORMERS.python.exists():
        pytest.skip("no torch: make torch")
    said, expected = there(story, TRANSFORMERS, model_folder()), here(TRANSFORMERS, model_folder(), tmp_path)
    print(f"\nin the pod {said}, here {expected}")
    assert said == expected


def test_vllm_finds_the_model_by_its_name_and_says_what_it_says_from_the_files(story: Story, tmp_path: Path) -> None:
    """Its own loader, then ours, which the image brings."""
    if not VLLM.python.exists():
        pytest.skip("no vLLM: make vllm")
    folder = tmp_path / "llama"
    env = {**os.environ, "PYTHONPATH": str(HOUSE / "tests")}
    subprocess.run([VLLM.python, "-c", MAKING, folder], env=env, stdout=subprocess.DEVNULL, timeout=300, check=True)
    said, expected = there(story, VLLM, folder), here(VLLM, folder, tmp_path)
    print(f"\nin the pod {said}, here {expected}")
    assert [one["format"] for one in said] == list(VLLM.arguments)
    assert len(set(said[0]["tokens"])) > 2, "a model that always says the same would prove nothing"
    assert said == expected
    stock, ours = said
    assert {**ours, "format": stock["format"]} == stock
