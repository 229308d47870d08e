"""The examples that need a framework, on a real kubelet: the server with torch, and vLLM. Run by hand (`make frameworks`): the
environments, of 5 GB each, are lent to the pods by hostPaths of this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from story import Story
from story.examples import example
from story.lending import HOUSE, OURS, lend, packages_of, python_of

from prestage.kubectl.cli import kubectl_prestage

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.needs("kubernetes-node", "helm", "versitygw", "toxiproxy-server"),
]
TOKEN = "hf_ok"
PROMPT = "a model that was there"
MAKING = "import sys; from pathlib import Path; from models import chat; chat(Path(sys.argv[1]))"
ANSWERING = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
tokens = tokenizer(sys.argv[2], return_tensors="pt")
said = tokenizer.decode(model.generate(**tokens, max_new_tokens=64)[0], skip_special_tokens=True)
print("RESULT " + json.dumps(said))
"""
COMPLETING = """
import json, sys
from vllm import LLM, SamplingParams
[said] = LLM(sys.argv[1], enforce_eager=True).generate([sys.argv[2]], SamplingParams(temperature=0, max_tokens=16))
print("RESULT " + json.dumps(said.outputs[0].text))
"""
ON_THE_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}
PROGRAM = "#!/usr/local/bin/python3\nfrom vllm.entrypoints.cli.main import main\n\nif __name__ == '__main__':\n    main()\n"
"""`vllm`, as its installer writes it: its processes of its own import it anew."""
ASKING = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=120).read().decode())
"""


@pytest.fixture
def allowed(story: Story) -> Iterator[Story]:
    """The hub gives its models to who has the token; the namespace has it."""
    kubectl = story.cluster.kubectl
    enabled = CliRunner().invoke(kubectl_prestage, ["enable", "demo", "--secret", "s3", "--secret", "hf-token"]).output
    kubectl("apply", "--server-side", "-f", "-", stdin=enabled)
    kubectl("create", "secret", "generic", "hf-token", "-n", "demo", f"--from-literal=HF_TOKEN={TOKEN}")
    yield story
    kubectl("delete", "secret", "hf-token", "-n", "demo")
    story.hub.disconnect()


def offered(story: Story, repository: str, environment: str) -> Path:
    """A small model of the right kind under this name."""
    folder = story.hub.root / repository
    env = {**os.environ, "PYTHONPATH": str(HOUSE / "tests")}
    argv: list[str | Path] = [python_of(environment), "-c", MAKING, folder]
    subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, timeout=300, check=True)
    (folder / ".hub.json").write_text(json.dumps({"gated": True, "tokens": [TOKEN]}))
    story.hub.reload()
    return folder


def here(environment: str, code: str, folder: Path, home: Path, **more: str) -> str:
    """What the framework, unmodified, says on this machine from the files themselves."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(home), **more}
    argv = [str(python_of(environment)), "-c", code, str(folder), PROMPT]
    done = subprocess.run(argv, env=env, cwd=home, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    [said] = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return str(json.loads(said))


def fitting(spec: dict[str, Any]) -> None:
    """Without a GPU, and as small as the machine."""
    del spec["containers"][0]["resources"]


def asked(story: Story, pod: dict[str, Any], url: str, body: str) -> Any:
    """From inside a pod of it."""
    words = ("exec", pod["metadata"]["name"], "-n", "demo", "--", "python3", "-c", ASKING, url, body)
    return json.loads(story.cluster.kubectl(*words))


def test_the_server_with_torch_loads_by_the_loader_and_says_what_transformers_says(allowed: Story, tmp_path: Path) -> None:
    if not python_of("torch").exists():
        pytest.skip("no torch: make torch")
    story, kubectl = allowed, allowed.cluster.kubectl
    folder = offered(story, "meta-llama/Llama-3.2-1B-Instruct", "torch")

    def changed(spec: dict[str, Any]) -> None:
        fitting(spec)
        lend(spec, packages_of("torch"), OURS)

    kubectl("apply", "-n", "demo", "-f", "-", stdin=example("deployment", changed))
    took_s = story.available("chat")
    address = kubectl("get", "service", "chat", "-n", "demo", "-o", "jsonpath={.spec.clusterIP}")
    expected = here("torch", ANSWERING, folder, tmp_path)
    pods = story.pods("chat")
    said = [asked(story, pods[0], url, PROMPT)["answer"] for url in (f"http://{address}/", "http://127.0.0.1:8000/")]
    logs = [kubectl("logs", pod["metadata"]["name"], "-n", "demo") for pod in pods]
    print(f"\nup after {took_s:.0f} s: {said}, here {expected!r}\n{logs[0]}")
    assert expected.startswith(PROMPT)
    assert len(set(expected.removeprefix(PROMPT).split())) > 2, "a model that always says the same would prove nothing"
    assert said == [expected] * 2
    for log in logs:
        [loaded] = [line for line in log.splitlines() if line.startswith("prestage: llama")]
        assert "unverified" not in loaded
    story.gone("chat")
    kubectl("delete", "service/chat", "configmap/chat-server", "-n", "demo")


def test_vllm_finds_its_model_and_completes_as_on_this_machine(allowed: Story, tmp_path: Path) -> None:
    if not python_of("vllm").exists():
        pytest.skip("no vLLM: make vllm")
    story, kubectl, name = allowed, allowed.cluster.kubectl, "meta-llama/Llama-3.1-8B-Instruct"
    folder = offered(story, name, "vllm")
    program = tmp_path / "vllm"
    program.write_text(PROGRAM)
    program.chmod(0o755)

    def changed(spec: dict[str, Any]) -> None:
        fitting(spec)
        spec["containers"][0]["command"].append("--enforce-eager")  # the image has no compiler
        lend(spec, packages_of("vllm"), env=ON_THE_CPU, files={program: "/usr/local/bin/vllm"})

    kubectl("apply", "-n", "demo", "-f", "-", stdin=example("vllm", changed))
    began_s, ready = time.monotonic(), ("get", "deployment", "vllm", "-n", "demo", "-o", "jsonpath={.status.availableReplicas}")
    try:
        story.told(lambda: kubectl(*ready) == "1", "vLLM serves", timeout_s=400)
    except TimeoutError as exc:
        raise AssertionError(kubectl("logs", "-n", "demo", "-l", "app=vllm", "--tail=100")) from exc
    took_s = time.monotonic() - began_s
    [pod] = story.pods("vllm")
    body = json.dumps({"model": name, "prompt": PROMPT, "max_tokens": 16, "temperature": 0})
    said = asked(story, pod, "http://127.0.0.1:8000/v1/completions", body)["choices"][0]["text"]
    expected = here("vllm", COMPLETING, folder, tmp_path, **ON_THE_CPU, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    print(f"\nup after {took_s:.0f} s: {said!r}, here {expected!r}")
    assert len(set(expected.split())) > 2, "a model that always says the same would prove nothing"
    assert said == expected
    story.gone("vllm")
