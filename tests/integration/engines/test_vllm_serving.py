"""vLLM really run on the CPU: load format "prestage" answers as "safetensors" does, also on two ranks and after a reload."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loading import View, make_view

from .conftest import TIMEOUT_S, environment

pytest.importorskip("vllm", reason="vLLM is not installed (make vllm)")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S + 30)]


def test_tokens_and_their_probabilities_are_those_of_the_stock_loader(alone: dict[str, dict[str, Any]]) -> None:
    ours, stock = alone["prestage"], alone["safetensors"]
    assert len(set(stock["tokens"])) > 2, "a model that always says the same would prove nothing"
    assert (ours["tokens"], ours["logprobs"]) == (stock["tokens"], stock["logprobs"])


def test_reloaded_weights_are_the_same_weights(alone: dict[str, dict[str, Any]]) -> None:
    ours = alone["prestage"]
    assert ours["reloaded"] == {"tokens": ours["tokens"], "logprobs": ours["logprobs"]}


def test_views_into_a_reused_ring_load_right_and_reload_wrong(alone: dict[str, dict[str, Any]]) -> None:
    """The trap that the test above is there for: seen with the bug planted, it would have failed."""
    ring, stock = alone["ring"], alone["safetensors"]
    assert (ring["tokens"], ring["logprobs"]) == (stock["tokens"], stock["logprobs"])
    assert ring["reloaded"]["logprobs"] != stock["logprobs"]


CORES = sorted(os.sched_getaffinity(0))[:2]


class Server:
    """`vllm serve` on a free port, with a tensor-parallel rank on each of two cores."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = ["--load-format", "prestage", "--model-loader-extra-config", '{"verify": "require"}', "--enforce-eager"]
        options += ["--max-model-len", "128", "--max-num-seqs", "2", "--dtype", "bfloat16", "--no-enable-prefix-caching"]
        options += ["--tensor-parallel-size", str(len(CORES))]
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", "served"]
        self.log = log
        with open(log, "wb") as said:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "vllm"), "serve", str(folder), *options, *place],
                env=environment(
                    VLLM_SERVER_DEV_MODE="1", VLLM_PLUGINS="prestage", VLLM_CPU_OMP_THREADS_BIND="|".join(map(str, CORES))
                ),
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S - 60
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self.post("/health", None)
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        pytest.fail(f"vllm serve did not come up:\n{self.said()[-6000:]}")

    def post(self, path: str, body: object, timeout_s: float = 120) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            content: bytes = answer.read()
            return content

    def tokens(self) -> list[int]:
        asked = {"model": "served", "prompt": [1, 5, 9, 33], "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = json.loads(self.post("/v1/completions", asked))
        return [int(word[1:]) for word in answer["choices"][0]["text"].split()]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def view(model: Path, tmp_path: Path) -> View:
    return make_view(tmp_path / "artifact", {file.name: file.read_bytes() for file in model.iterdir()})


@pytest.fixture
def server(view: View, tmp_path: Path) -> Iterator[Server]:
    server = Server(view.folder, tmp_path / "log")
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.mark.skipif(len(CORES) < 2, reason="two ranks need two cores")
def test_two_ranks_serve_a_staged_model_and_reload_it_over_http(
    server: Server, view: View, alone: dict[str, dict[str, Any]]
) -> None:
    expected = alone["safetensors"]["tokens"]
    assert server.tokens() == expected
    server.post("/collective_rpc", {"method": "reload_weights"})
    assert server.tokens() == expected
    last = sorted(file.name for file in view.folder.glob("*.safetensors"))[-1]
    view.damage((view.folder / last).stat().st_size - 100, last)
    with pytest.raises(urllib.error.HTTPError):
        server.post("/collective_rpc", {"method": "reload_weights"})
    assert "differs from its sum" in server.said()
