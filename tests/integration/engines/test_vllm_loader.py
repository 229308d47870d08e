"""The loader behind load format "prestage", without an engine around it: what it yields, skips, refuses and leaves to vLLM."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from loading import View, bytes_tensors, make_view

torch = pytest.importorskip("torch", reason="torch is not installed (make vllm)")
pytest.importorskip("vllm", reason="vLLM is not installed (make vllm)")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EXPERT = "model.layers.0.mlp.experts.{}.gate_proj.weight"
SCALE = "model.layers.0.mlp.experts.{}.gate_proj.weight_scale"


@pytest.fixture(scope="module")
def load_format() -> str:
    """Registered, twice, as vLLM may."""
    from prestage.loader.integrations.vllm import FORMAT, register

    register()
    register()
    return FORMAT


def loader(load_format: str, **options: object) -> Any:
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import get_model_loader

    return get_model_loader(LoadConfig(load_format=load_format, model_loader_extra_config=options))


def source(folder: Path, **more: object) -> Any:
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    return DefaultModelLoader.Source(str(folder), None, **more)


def overwritten(weights: Any) -> list[str]:
    """Names of tensors that changed, or share memory with another, once the iteration had gone on."""
    kept = [(name, tensor, tensor.clone()) for name, tensor in weights]
    changed = [name for name, tensor, then in kept if not torch.equal(tensor, then)]
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes, name) for name, tensor, _ in kept)
    return changed + [name for (_, stop, _), (start, _, name) in itertools.pairwise(spans) if start < stop]


@pytest.fixture
def experts(tmp_path: Path) -> View:
    """Two files; four experts of two chunks each."""
    first = {EXPERT.format(number): 8192 for number in range(4)} | {SCALE.format(number): 16 for number in range(4)}
    return make_view(
        tmp_path,
        {"model-00001.safetensors": bytes_tensors(first), "model-00002.safetensors": bytes_tensors({"model.norm.weight": 64})},
    )


def test_every_tensor_is_the_one_that_vllms_own_loader_yields(load_format: str, model: Path) -> None:
    ours = dict(loader(load_format)._get_weights_iterator(source(model, prefix="draft.")))
    stock = dict(loader("safetensors", enable_weights_track=False)._get_weights_iterator(source(model, prefix="draft.")))
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) and ours[name].dtype == stock[name].dtype for name in stock)


def test_every_tensor_owns_its_memory(load_format: str, model: Path) -> None:
    weights = loader(load_format)
    assert overwritten(weights._get_weights_iterator(source(model))) == []
    kept = dict(weights._get_weights_iterator(source(model)))
    again = dict(weights._get_weights_iterator(source(model)))
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_views_into_a_reused_ring_are_seen(load_format: str, model: Path) -> None:
    from engines import ring

    ring.register()
    assert len(overwritten(loader("ring")._get_weights_iterator(source(model)))) > 20


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("placement", ["linear", "round_robin"])
def test_experts_of_other_ranks_are_skipped_as_vllm_skips_them(
    load_format: str, experts: View, rank: int, placement: str
) -> None:
    from vllm.model_executor.model_loader.ep_weight_filter import compute_local_expert_ids

    mine, stock = loader(load_format), loader("safetensors")
    mine.local_expert_ids = stock.local_expert_ids = compute_local_expert_ids(4, 2, rank, placement)
    names = {name for name, _ in mine._get_weights_iterator(source(experts.folder))}
    assert names == {name for name, _ in stock._get_weights_iterator(source(experts.folder))}
    local = {0: [0, 1], 1: [2, 3]}[rank] if placement == "linear" else {0: [0, 2], 1: [1, 3]}[rank]
    assert {name for name in names if name.endswith(".weight")} == {*map(EXPERT.format, local), "model.norm.weight"}
    assert {name for name in names if name.endswith("_scale")} == {SCALE.format(number) for number in range(4)}


def test_a_skipped_expert_is_not_even_read(load_format: str, experts: View) -> None:
    from prestage.loader import CorruptFile

    weights = loader(load_format, verify="require")
    weights.local_expert_ids = {0, 1}
    size = (experts.folder / "model-00001.safetensors").stat().st_size
    experts.damage(size - 4096 - 100, "model-00001.safetensors")  # inside expert 3
    assert len(list(weights._get_weights_iterator(source(experts.folder)))) == 2 + 4 + 1
    weights.local_expert_ids = {3}
    with pytest.raises(CorruptFile, match="model-00001"):
        list(weights._get_weights_iterator(source(experts.folder)))


def test_files_without_a_weight_of_the_model_are_not_opened(load_format: str, experts: View) -> None:
    asked = source(experts.folder, is_unused_weight=lambda name: "experts" in name)
    assert [name for name, _ in loader(load_format)._get_weights_iterator(asked)] == ["model.norm.weight"]


def test_an_unknown_option_is_refused_by_name(load_format: str) -> None:
    from prestage.loader import Unsupported

    with pytest.raises(Unsupported, match="'threads'"):
        loader(load_format, threads=3)
    with pytest.raises(Unsupported, match="verify 'maybe'"):
        loader(load_format, verify="maybe")
    assert loader(load_format, enable_weights_track=True).enable_weights_track is True


def test_a_folder_without_safetensors_is_refused_as_by_the_stock_loader(load_format: str, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    for one in (load_format, "safetensors"):
        with pytest.raises(RuntimeError, match="Cannot find any model weights"):
            list(loader(one)._get_weights_iterator(source(tmp_path)))
