"""Which names of a state dict show the same memory, so that a file may hold them once. The safetensors library's rule.

Names that overlap in one storage form a group. Of a group one name that covers its whole storage is kept: the first, in
alphabetical order, that the file holds, else the first of all. The others are the removed ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

import torch


def removed_names(state: Mapping[str, torch.Tensor], kept: Collection[str]) -> list[str]:
    """The names that saving leaves out, given the names `kept` by the file.

    Raises:
        RuntimeError: names share memory and none of them covers its storage.
    """
    removed: list[str] = []
    for group in _groups(state):
        if len(group) < 2:
            continue
        complete = sorted(name for name in group if _covers_storage(state[name]))
        if not complete:
            raise RuntimeError(f"none of the tensors that share memory covers the whole storage: {sorted(group)}")
        keep = next((name for name in complete if name in kept), complete[0])
        removed += sorted(group - {keep})
    return removed


def _groups(state: Mapping[str, torch.Tensor]) -> Iterator[set[str]]:
    by_storage = defaultdict[tuple[str, int, int], list[str]](list)
    for name, tensor in state.items():
        if tensor.device.type == "meta":
            continue
        storage = tensor.untyped_storage()
        if storage.data_ptr() and storage.nbytes():
            by_storage[str(tensor.device), storage.data_ptr(), storage.nbytes()].append(name)
    for names in by_storage.values():
        yield from _overlapping(names, state)


def _overlapping(names: list[str], state: Mapping[str, torch.Tensor]) -> Iterator[set[str]]:
    """Tensors that lie side by side in one storage are no group: only those whose bytes overlap are."""
    spans = sorted((state[name].data_ptr(), _end(state[name]), name) for name in names)
    group: set[str] = set()
    last_stop = 0
    for start, stop, name in spans:
        if group and start >= last_stop:
            yield group
            group = set()
        group.add(name)
        last_stop = stop
    yield group


def _end(tensor: torch.Tensor) -> int:
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.data_ptr() + (reach + 1) * tensor.element_size()) if tensor.nelement() else int(tensor.data_ptr())


def _covers_storage(tensor: torch.Tensor) -> bool:
    storage = tensor.untyped_storage()
    return bool(tensor.data_ptr() == storage.data_ptr() and tensor.nelement() * tensor.element_size() == storage.nbytes())
