"""`load`: transformers' `from_pretrained` for a model on local disk, with this loader in the place of the safetensors library.

transformers takes a mapping of names to tensors beside a config (`from_pretrained(None, config=, state_dict=)`) and does the
rest as ever: renames, conversions, dtype plans, quantisers, ties, buffers. Version 5 also takes tensors that are not read yet;
version 4 wants whole tensors.

On the CPU, and where no cast is asked for, parameters are what was read, the mapped file (copy-on-write) where it was resident:
nothing is copied.
Run with transformers 5.24.0 (torch 2.15.0) and 4.57.6.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from prestage.loader.dtypes import DTYPES
from prestage.loader.errors import Unsupported
from prestage.loader.integrations.shards import Slice, Weights, first_dtypes, opened

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["load"]

Model = TypeVar("Model")

_ELSEWHERE = ("variant", "gguf_file", "state_dict", "from_tf", "from_flax", "adapter_kwargs", "subfolder", "revision")
"""Keywords that name other weights than the folder's."""
_UNFIT = ("float8_", "float4_")
"""Dtypes that torch cannot have as its default, hence no model can be made in."""


def load(
    cls: type[Model],
    path: str | os.PathLike[str],
    device: str | int = "cpu",
    dtype: torch.dtype | str | None = None,
    *,
    verify: str = "auto",
    **kw: object,
) -> Model:
    """What `cls.from_pretrained(path, dtype=dtype, device_map=device, **kw)` returns, bit for bit.

    `cls` is a model's class or an AutoModel class, `path` a folder with config.json and safetensors files. `dtype=None` means
    what it means to the installed transformers: "auto" from version 5 on, float32 before. With `output_loading_info=True` the
    result is the pair that transformers returns. Parameters on the CPU hold what was read; they may be written to.

    Raises:
        OSError: no such folder, config or weights.
        InvalidFile, CorruptFile, VerifyUnavailable, UnsupportedDtype: no model was returned.
        Unsupported: a keyword that asks for other weights than the folder's, or a model whose code is not in transformers.
    """
    import transformers

    if found := [name for name in _ELSEWHERE if kw.get(name)]:
        raise Unsupported(f"{found[0]}= is not for this loader", hint="use from_pretrained, inside prestage.loader.accelerate()")
    folder = os.fspath(path)
    config, rest = _config(cls, folder, dict(kw))
    lazy = int(transformers.__version__.split(".")[0]) >= 5
    with opened(folder, verify=verify) as weights:
        rest["dtype"] = (_stated(config) or _found(folder)) if lazy and dtype in (None, "auto") else dtype
        if device != "cpu":
            rest.setdefault("device_map", {"": device})
        source: Mapping[str, object] = _Lazy(weights) if lazy else dict(weights.items())
        concrete: Any = _concrete(cls, config)
        config = _fitting(config, concrete)
        loaded: Any = concrete.from_pretrained(None, config=config, state_dict=source, **rest)
    _named(loaded[0] if isinstance(loaded, tuple) else loaded, folder, with_generation="generation_config" not in kw)
    result: Model = loaded
    return result


class _Lazy(Mapping[str, Slice]):
    """The mapping that transformers walks; a value is read when it is indexed."""

    def __init__(self, weights: Weights) -> None:
        self._slices = {name: weights.get_slice(name) for name in weights}

    def __getitem__(self, name: str) -> Slice:
        return self._slices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)


def _config(cls: type, folder: str, kw: dict[str, object]) -> tuple[PretrainedConfig, dict[str, object]]:
    """The model's config, and of `kw` what was not for it: as from_pretrained does it."""
    from transformers import AutoConfig, PretrainedConfig

    given = kw.pop("config", None)
    if isinstance(given, PretrainedConfig):
        return given, kw
    kept = {name: kw.pop(name) for name in ("quantization_config", "trust_remote_code") if name in kw}
    source = getattr(cls, "config_class", None) or AutoConfig
    config, rest = source.from_pretrained(
        folder if given is None else given, return_unused_kwargs=True, local_files_only=True, **kw, **kept
    )
    return config, rest | kept


def _concrete(cls: type, config: PretrainedConfig) -> type:
    """The model's class behind an AutoModel class: those refuse to be called without a path."""
    mapping = getattr(cls, "_model_mapping", None)
    if mapping is None:
        return cls
    if type(config) not in mapping:
        raise Unsupported(
            f"{cls.__name__} knows no model for {type(config).__name__}",
            hint="pass the model's own class, or use from_pretrained",
        )
    found = mapping[type(config)]
    several: tuple[type, ...] = found if isinstance(found, tuple) else (found,)
    by_name = {one.__name__: one for one in several}
    return next((by_name[name] for name in getattr(config, "architectures", None) or [] if name in by_name), several[0])


def _fitting(config: PretrainedConfig, concrete: type) -> PretrainedConfig:
    """The part of a composite config that a text model alone is made of."""
    text = getattr(config, "sub_configs", {}).get("text_config")
    if text is None or getattr(concrete, "config_class", None) is not text:
        return config
    part = config.get_text_config()
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        part.quantization_config = quantization
    return part


def _stated(config: PretrainedConfig) -> torch.dtype | None:
    """The dtype that the config asks for."""
    import torch

    stated = config.dtype if hasattr(config, "dtype") else getattr(config, "torch_dtype", None)
    return getattr(torch, stated) if isinstance(stated, str) else stated


def _found(folder: str) -> torch.dtype:
    """The first floating dtype of the first file, by transformers' rule: it would ask the tensors, and these are not read yet."""
    import torch

    known: list[torch.dtype] = [getattr(torch, name) for code in first_dtypes(folder) if (name := DTYPES[code].torch)]
    fit = (one for one in known if one.is_floating_point and not any(word in str(one) for word in _UNFIT))
    return next(fit, known[0] if known else torch.float32)


def _named(model: PreTrainedModel, folder: str, *, with_generation: bool) -> None:
    """What from_pretrained takes from the path and not from the weights."""
    model.config.name_or_path = model.name_or_path = folder
    if not (with_generation and model.can_generate()):
        return
    from transformers import GenerationConfig

    try:
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        model.generation_config = GenerationConfig.from_pretrained(
            folder, config_file_name="config.json", local_files_only=True, _from_model_config=True
        )
