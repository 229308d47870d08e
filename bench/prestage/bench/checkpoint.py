"""Llama-shaped checkpoints of any size, in seconds, from a seed: several safetensors shards in bf16, an index, a config.

    config.json  model-00001-of-00003.safetensors ...  model.safetensors.index.json

The bytes come from one random block of 64 MiB; each time it is used it is rotated by another number of words, so that no two
4 MiB chunks are alike and no store can fold them. The highest exponent bit is cleared: every value is finite. Same arguments,
same bytes, on every machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 64 << 20
_ALIGN = 8
"""safetensors pads its header with spaces to a multiple of 8."""
_FINITE = np.uint64(0xBFFF_BFFF_BFFF_BFFF)
"""Clears the top exponent bit of each bf16: below 2, never NaN or infinite."""
_STRIDE_WORDS = 1_000_003
"""Odd and prime, so that its multiples visit every rotation of the 2**23 words before one comes twice."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of a model; layers follow from the size asked for."""

    hidden: int = 2048
    intermediate: int = 5632
    vocabulary: int = 32000
    heads: int = 32
    key_value_heads: int = 4

    def layer(self, number: int) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of one decoder layer."""
        narrow = self.hidden * self.key_value_heads // self.heads
        parts = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (narrow, self.hidden),
            "self_attn.v_proj": (narrow, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
        }
        return [(f"model.layers.{number}.{part}.weight", shape) for part, shape in parts.items()]

    def ends(self) -> list[tuple[str, tuple[int, ...]]]:
        """What is not in a layer."""
        table = (self.vocabulary, self.hidden)
        return [("model.embed_tokens.weight", table), ("model.norm.weight", (self.hidden,)), ("lm_head.weight", table)]


TINY = Shape(hidden=64, intermediate=176, vocabulary=256, heads=4, key_value_heads=2)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was written."""

    directory: Path
    size_bytes: int
    """Tensor bytes: at least what was asked for, at most one layer more."""
    tensors: int
    shards: tuple[Path, ...]
    sha256: dict[str, str]
    """Per file of `directory`, hex."""


def make_checkpoint(
    directory: Path, size_bytes: int, *, seed: int = 1, shard_bytes: int = 1_000_000_000, shape: Shape | None = None
) -> Checkpoint:
    """Write a checkpoint of `size_bytes` or a little more into `directory`, which is made if missing."""
    shape = shape or (Shape() if size_bytes >= 1 << 30 else TINY)
    shards = _split(_tensors(shape, size_bytes), shard_bytes)
    directory.mkdir(parents=True, exist_ok=True)
    filler = _Filler(seed)
    digests: dict[str, str] = {}
    where: dict[str, str] = {}
    names = []
    for number, tensors in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        digests[name] = _write_shard(directory / name, tensors, filler)
        where |= {tensor: name for tensor, _ in tensors}
        names.append(directory / name)
    total = sum(_size(extent) for tensors in shards for _, extent in tensors)
    layers = sum(name.endswith("q_proj.weight") for name in where)
    for name, content in (
        ("config.json", _config(shape, layers)),
        ("model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where}),
    ):
        text = json.dumps(content, indent=2).encode()
        (directory / name).write_bytes(text)
        digests[name] = hashlib.sha256(text).hexdigest()
    return Checkpoint(directory, total, len(where), tuple(names), digests)


def _tensors(shape: Shape, size_bytes: int) -> list[tuple[str, tuple[int, ...]]]:
    first, *last = shape.ends()
    tensors = [first]
    done = sum(_size(extent) for _, extent in shape.ends())
    number = 0
    while done < size_bytes or number == 0:
        layer = shape.layer(number)
        tensors += layer
        done += sum(_size(extent) for _, extent in layer)
        number += 1
    return tensors + last


def _split(tensors: list[tuple[str, tuple[int, ...]]], shard_bytes: int) -> list[list[tuple[str, tuple[int, ...]]]]:
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, shape in tensors:
        if shards[-1] and filled + _size(shape) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += _size(shape)
    return shards


def _size(shape: tuple[int, ...]) -> int:
    count = 2
    for extent in shape:
        count *= extent
    return count


def _config(shape: Shape, layers: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "vocab_size": shape.vocabulary,
        "torch_dtype": "bfloat16",
    }


def _write_shard(path: Path, tensors: list[tuple[str, tuple[int, ...]]], filler: _Filler) -> str:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + _size(shape)]}
        at += _size(shape)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    digest = hashlib.sha256()
    with open(path, "wb", buffering=0) as file:
        for part in _parts(struct.pack("<Q", len(text)) + text, at, filler):
            _write_all(file.fileno(), part)
            digest.update(part)
        # its pages must be clean before anybody measures beside them
        os.fsync(file.fileno())
    return digest.hexdigest()


def _parts(head: bytes, body_bytes: int, filler: _Filler) -> Iterator[memoryview]:
    yield memoryview(head)
    while body_bytes > 0:
        part = filler.next()[:body_bytes]
        body_bytes -= len(part)
        yield part


def _write_all(fd: int, part: memoryview) -> None:
    while part:
        part = part[os.write(fd, part) :]


class _Filler:
    """One random block, handed out rotated: the next call overwrites nothing that was handed out before."""

    def __init__(self, seed: int) -> None:
        words = np.random.Generator(np.random.PCG64(seed)).integers(0, 2**64, _BLOCK_BYTES // 8, dtype=np.uint64)
        once: NDArray[np.uint64] = words & _FINITE
        # twice in a row, so that every rotation is one slice
        self._twice = np.concatenate((once, once))
        self._turn = 0

    def next(self) -> memoryview:
        """64 MiB."""
        words = _BLOCK_BYTES // 8
        start = self._turn * _STRIDE_WORDS % words
        self._turn += 1
        return self._twice[start : start + words].data.cast("B")
