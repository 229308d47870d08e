"""Torch tensors on a mapped file. The one place besides prestage.loader.torch and tied.py that imports torch."""

from __future__ import annotations

import torch

from prestage.loader.errors import Unsupported, UnsupportedDtype
from prestage.loader.header import TensorInfo
from prestage.loader.mapped import MappedFile

_DEVICE_KINDS = ("cuda", "musa", "mps", "npu", "xpu", "xla", "mlu", "hpu")
"""As safetensors 0.8, each with or without `:<index>`; an integer leaves the kind to torch."""


class TorchTensors:
    """On the CPU tensors are writable views of the private mapping, each with a storage of its own size; elsewhere copies."""

    def __init__(self, device: str | int | None, *, private: bool) -> None:
        """`device`: "cpu", an accelerator such as "cuda:1", or a number.

        Raises:
            Unsupported: no such device is known.
        """
        self._device = checked_device(device)
        self._private = private

    def tensor(self, mapped: MappedFile, info: TensorInfo) -> torch.Tensor:
        """The tensor on the device."""
        return self._placed(_mapped_tensor(mapped, info))

    def sliced(self, mapped: MappedFile, info: TensorInfo, index: object) -> torch.Tensor:
        """A view of the whole tensor's storage on the CPU; only the slice goes to another device."""
        return self._placed(_mapped_tensor(mapped, info)[index])

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device != "cpu":
            return tensor.to(self._device)
        return tensor.clone() if self._private else tensor


def checked_device(device: str | int | None) -> str | int:
    """`device` in the form that torch takes.

    Raises:
        Unsupported: it is not one that the safetensors library knows.
    """
    if device is None or device == "cpu":
        return "cpu"
    if isinstance(device, int) and device >= 0:
        return device
    if isinstance(device, str):
        kind, colon, index = device.partition(":")
        if kind in _DEVICE_KINDS and (index.isdecimal() if colon else True):
            return device
    raise Unsupported(f"device {device!r} is invalid", hint='use "cpu", "cuda", "cuda:<index>" or an index')


def _mapped_tensor(mapped: MappedFile, info: TensorInfo) -> torch.Tensor:
    dtype = getattr(torch, info.dtype.torch, None) if info.dtype.torch else None
    if dtype is None:
        raise UnsupportedDtype(
            f"Dtype not understood: {info.dtype.code} of tensor {info.name!r}", hint="a newer torch may know it"
        )
    shape = _storage_shape(info)
    count = info.stop - info.start
    if not count:
        return torch.zeros(shape, dtype=dtype)
    # a storage per tensor, exactly as long as the tensor: torch.save() of one writes that one, and tied weights are told apart
    return torch.frombuffer(mapped.view, dtype=torch.uint8, count=count, offset=info.start).view(dtype).reshape(shape)


def _storage_shape(info: TensorInfo) -> tuple[int, ...]:
    if info.dtype.bits >= 8:
        return info.shape
    per_byte = 8 // info.dtype.bits
    if not info.shape or info.shape[-1] % per_byte:
        raise UnsupportedDtype(
            f"{info.dtype.code} tensor {info.name!r} of shape {list(info.shape)} has no last dimension divisible by {per_byte}",
            hint="torch packs that many elements in a byte",
        )
    return (*info.shape[:-1], info.shape[-1] // per_byte)
