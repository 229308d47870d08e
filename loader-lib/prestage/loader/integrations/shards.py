"""The one place where the integrations reach for the loader: a checkpoint, or the files that an engine chose, as torch tensors.

Every tensor that is handed out owns its memory: no later one overwrites it, whoever keeps it (engines keep them and read them
again at a reload).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prestage.loader import checkpoint
from prestage.loader.api import open_model
from prestage.loader.errors import SafetensorError
from prestage.loader.model import Model as Weights
from prestage.loader.model import ModelSlice as Slice

if TYPE_CHECKING:
    import torch

__all__ = ["VERIFY_MODES", "Slice", "Weights", "first_dtypes", "opened", "weights"]

Wanted = Callable[[str], bool]
VERIFY_MODES = ("off", "auto", "require")
"""From lax to strict."""


def opened(folder: str, *, verify: str = "auto") -> Weights:
    """The checkpoint in `folder`, in one plan; takes over what `prestage.loader.start(folder)` began. Raises: as `open_model`."""
    return open_model(folder, framework="pt", verify=verify)


def weights(
    files: Sequence[str], *, names: Wanted | None = None, verify: str = "auto", readers: int = 1
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of each tensor in `files` that `names` says yes to, in the order of the bytes; the others are never read.

    Files that are just what their folder's checkpoint is made of are read in one plan, others one by one: a name in two of them
    comes twice. `readers`: processes that read them now. Raises: as `open_model`.
    """
    for path in _plans(files):
        with open_model(path, framework="pt", names=names, verify=verify, readers=readers) as model:
            yield from model.items()


def first_dtypes(folder: str) -> list[str]:
    """The dtype codes of the checkpoint's first file, in the order of the names. Raises: as `open_model`."""
    tensors = checkpoint.read(folder, "off").shards[0].header.tensors
    return [tensors[name].dtype.code for name in sorted(tensors)]


def _plans(files: Sequence[str]) -> Sequence[str]:
    folder = os.path.dirname(files[0])  # noqa: PTH120 - no pathlib at import
    try:
        whole = {shard.path for shard in checkpoint.read(folder, "off").shards}
    except SafetensorError:
        return files
    return [folder] if whole == set(files) else files
