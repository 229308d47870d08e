"""The model loader behind vLLM's load format "prestage". Imports vLLM: only `register` may import this.

vLLM's own DefaultModelLoader with one method exchanged: where the tensors come from. What it does around that stays: the choice
of files, expert-parallel filter, secondary weights, the check that every weight was loaded, reload.

Invariant: every tensor that is handed out owns its memory. vLLM keeps what it is given beyond the step of the iteration (reload
and online quantisation buffer a whole layer): a view into a buffer that is used again loads right and reloads wrong.

    --model-loader-extra-config '{"verify": "auto" | "require" | "off", "enable_weights_track": true}'
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from vllm.distributed import get_tensor_model_parallel_world_size, model_parallel_is_initialized
from vllm.logger import init_logger
from vllm.model_executor import model_loader
from vllm.model_executor.model_loader import weight_utils
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

from prestage.loader.errors import Unsupported
from prestage.loader.integrations.shards import VERIFY_MODES, weights

if TYPE_CHECKING:
    import torch
    from vllm.config.load import LoadConfig

_OPTIONS = ("verify", "enable_weights_track")
_logger = init_logger(f"vllm.{__name__}")

Weights = Generator[tuple[str, "torch.Tensor"], None, None]


class PrestageModelLoader(DefaultModelLoader):  # type: ignore[misc] # vLLM is not installed where types are checked
    """Tensors on the CPU, whole, in the order of their bytes; each weight loader of the model takes its rank's part."""

    def __init__(self, load_config: LoadConfig) -> None:
        """Raises: Unsupported: an option that this loader does not know."""
        options = dict(load_config.model_loader_extra_config or {})
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise Unsupported(f"model_loader_extra_config has {unknown[0]!r}", hint=f"it may have {' and '.join(_OPTIONS)}")
        self._verify = options.pop("verify", "auto")
        if self._verify not in VERIFY_MODES:
            raise Unsupported(f"verify {self._verify!r} is invalid (expected one of: {', '.join(VERIFY_MODES)})")
        # the choice of files knows built-in formats only
        super().__init__(dataclasses.replace(load_config, load_format="safetensors", model_loader_extra_config=options))

    def _get_weights_iterator(self, source: DefaultModelLoader.Source) -> Weights:
        """Name and tensor of what `source` names, but for experts of other ranks, which are not read."""
        if self.load_config.safetensors_load_strategy == "torchao":
            _logger.info("prestage: flattened torchao tensors, left to vLLM's own reader")
            stock: Weights = super()._get_weights_iterator(source)
            return stock
        folder, files, _, index = self._prepare_weights(
            source.model_or_path, source.subfolder, source.revision, source.fall_back_to_pt, source.allow_patterns_overrides
        )
        if not self.counter_before_loading_weights:
            self.counter_before_loading_weights: float = time.perf_counter()
        return self._read(sorted(self._needed(files, folder, index, source), key=_natural), source.prefix)

    def _read(self, files: list[str], prefix: str) -> Weights:
        for name, tensor in weights(files, names=self._is_local, verify=self._verify, readers=_ranks()):
            yield prefix + name, tensor

    def _is_local(self, name: str) -> bool:
        return not should_skip_weight(name, self.local_expert_ids)

    def _needed(self, files: list[str], folder: str, index: str, source: DefaultModelLoader.Source) -> list[str]:
        """Without the files that hold nothing for this model: vLLM's own two filters."""
        if (prefixes := getattr(self, "_encoder_only_lm_prefixes", None)) is not None:
            mapper = self._encoder_only_weights_mapper
            files = weight_utils.filter_mm_encoder_only_safetensors_files(files, folder, index, prefixes, weights_mapper=mapper)
        if (is_unused := getattr(source, "is_unused_weight", None)) is not None:
            files = weight_utils.filter_safetensors_files_by_weight_name(files, is_unused)
        if not files:
            raise RuntimeError(f"no file of {source.model_or_path!r} holds a weight of this model")
        return files


def is_registered(load_format: str) -> bool:
    """Whether this process' vLLM has this loader under that name already: registering twice is allowed, and warned of."""
    known = getattr(model_loader, "_LOAD_FORMAT_TO_MODEL_LOADER", {})
    return known.get(load_format) is PrestageModelLoader


def _ranks() -> int:
    """How many processes read these files now; with more than one the disk is read once, through the page cache."""
    return int(get_tensor_model_parallel_world_size()) if model_parallel_is_initialized() else 1


def _natural(path: str) -> list[int | str]:
    """Shard 10 after shard 9, as vLLM orders them."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
