"""The serving process: its stamps, and an answer that depends on every byte."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from prestage.bench import minilm
from prestage.bench.checkpoint import make_checkpoint
from prestage.bench.serving import TEXTS, first_use


def _serve(**settings: object) -> dict[str, object]:
    argument = json.dumps({"spawned_at": time.monotonic(), "loader": "safetensors", **settings})
    command = [sys.executable, "-m", "prestage.bench.serving", argument]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    said: dict[str, object] = json.loads(done.stdout)
    return said


def test_all_phases_are_stamped_and_the_weights_are_all_read(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "model", 2_000_000, shard_bytes=1_000_000)
    said = _serve(folder=str(made.directory))
    assert all(float(str(said[f"{phase}_s"])) >= 0 for phase in ("import", "fetch", "load", "first_use"))
    shard = made.shards[-1]
    with open(shard, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert _serve(folder=str(made.directory))["answer"] != said["answer"]


def test_a_copied_model_gives_the_same_answer_and_says_how_long_the_copy_took(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "model", 2_000_000)
    into = tmp_path / "cold"
    into.mkdir()
    cold = _serve(ref=f"file://{made.directory}", into=str(into))
    assert cold["answer"] == _serve(folder=str(made.directory))["answer"]
    assert float(str(cold["fetch_s"])) > 0


def test_an_encoder_answers_with_embeddings() -> None:
    answer = base64.b64decode(str(_serve(folder=str(minilm.model_folder()))["answer"]))
    vectors = np.frombuffer(answer, dtype=np.float32).reshape(len(TEXTS), -1)
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0.6660, abs=5e-4)


def test_tensors_that_changed_places_give_another_answer(tmp_path: Path) -> None:
    one, two = np.arange(16, dtype=np.float32), np.arange(16, 32, dtype=np.float32)
    assert first_use(tmp_path, {"a": one, "b": two}) != first_use(tmp_path, {"a": two, "b": one})


def test_an_odd_number_of_bytes_counts_to_the_last(tmp_path: Path) -> None:
    odd = np.arange(13, dtype=np.uint8)
    other = odd.copy()
    other[-1] ^= 1
    assert first_use(tmp_path, {"a": odd}) != first_use(tmp_path, {"a": other})
