"""Generated checkpoints: valid, deterministic, of the size asked for, and not compressible by a store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_dtypes  # noqa: F401 - safetensors looks bfloat16 up by name
import numpy as np
from safetensors import safe_open

from prestage.bench.checkpoint import TINY, Shape, make_checkpoint

_SIZE = 3_000_000


def test_safetensors_opens_every_shard_and_finds_what_the_index_says(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path, _SIZE, shard_bytes=1_000_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    found: dict[str, str] = {}
    total = 0
    for shard in made.shards:
        with safe_open(shard, "np") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                tensor = opened.get_tensor(name)
                assert str(tensor.dtype) == "bfloat16"
                assert np.isfinite(tensor.astype(np.float32)).all()
                found[name] = shard.name
                total += tensor.nbytes
    assert len(made.shards) > 2
    assert found == index["weight_map"]
    assert total == made.size_bytes == index["metadata"]["total_size"]


def test_the_size_is_what_was_asked_for_and_at_most_one_layer_more(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path, _SIZE)
    layer = sum(2 * int(np.prod(shape)) for _, shape in TINY.layer(0))
    assert _SIZE <= made.size_bytes < _SIZE + layer


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = make_checkpoint(tmp_path / "a", _SIZE, seed=5)
    assert make_checkpoint(tmp_path / "b", _SIZE, seed=5).sha256 == first.sha256
    assert make_checkpoint(tmp_path / "c", _SIZE, seed=6).sha256 != first.sha256


def test_the_digests_it_reports_are_those_of_the_files(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path, _SIZE)
    real = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.iterdir()}
    assert made.sha256 == real


def test_no_two_chunks_are_alike_even_where_the_block_comes_again(tmp_path: Path) -> None:
    big = Shape(hidden=1024, intermediate=2816, vocabulary=4096)
    made = make_checkpoint(tmp_path, 200_000_000, shape=big)
    content = made.shards[0].read_bytes()
    chunks = [content[at : at + (4 << 20)] for at in range(0, len(content) - (4 << 20), 4 << 20)]
    assert len(content) > 3 * (64 << 20) - (8 << 20)
    assert len({hashlib.blake2b(chunk).digest() for chunk in chunks}) == len(chunks)


def test_the_config_counts_the_layers_that_are_there(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, _SIZE)
    config = json.loads((tmp_path / "config.json").read_text())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert config["model_type"] == "llama"
    assert config["num_hidden_layers"] == 1 + max(
        int(name.split(".")[2]) for name in index["weight_map"] if name.startswith("model.layers.")
    )


def test_a_shard_is_never_larger_than_asked_unless_one_tensor_is(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path, _SIZE, shard_bytes=500_000)
    assert all(shard.stat().st_size < 500_000 + 10_000 for shard in made.shards)
