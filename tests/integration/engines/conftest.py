"""vLLM in an environment of its own: `make vllm` builds it and runs these tests by its Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from models import llama

HOUSE = Path(__file__).resolve().parents[3]
TIMEOUT_S = 900
"""For one engine, on a machine that does other things: on an idle one it is 20-60 s."""


def environment(**more: str) -> dict[str, str]:
    """Of a vLLM process on two cores: no network, no telemetry, 1 GiB of KV cache, caches out of the home directory."""
    fixed = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    own = {
        "PYTHONPATH": str(HOUSE / "tests"),
        "VLLM_CACHE_ROOT": f"{sys.prefix}/cache",
        "VLLM_CONFIG_ROOT": f"{sys.prefix}/config",
    }
    return os.environ | fixed | own | more


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded Llama with a tokenizer of 1024 words, w0 to w1023."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = llama(tmp_path_factory.mktemp("llama"), tied=False)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(1024)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", bos_token="w1", eos_token="w2").save_pretrained(folder)
    return folder


def offline(folder: Path, *arguments: str, log: Path, **more: str) -> dict[str, dict[str, Any]]:
    """What each format answered, by format; see engines/vllm_offline.py."""
    argv = [sys.executable, str(HOUSE / "tests" / "engines" / "vllm_offline.py"), str(folder), *arguments]
    with open(log, "wb") as said:
        done = subprocess.run(
            argv, env=environment(**more), stdout=said, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False
        )
    text = log.read_text(errors="replace")
    assert done.returncode == 0, text[-6000:]
    found = [json.loads(line.removeprefix("RESULT ")) for line in text.splitlines() if line.startswith("RESULT ")]
    return {one["format"]: one for one in found}


@pytest.fixture(scope="session")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The stock loader, ours, and the one with the planted bug, in one process."""
    log = tmp_path_factory.mktemp("alone") / "log"
    return offline(model, "safetensors", "prestage", "ring", log=log, VLLM_ENABLE_V1_MULTIPROCESSING="0")
