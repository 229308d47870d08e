"""Torch tensors on a mapped file. The one place besides prestage.loader.torch and tied.py that imports torch."""

from __future__ import annotations

import torch

from prestage.loader.dtypes import DTYPES
from prestage.loader.errors import Unsupported, UnsupportedDtype
from prestage.loader.header import TensorInfo
from prestage.loader.mapped import MappedFile
from prestage.loader.memory.device import Buffer
from prestage.loader.memory.dlpack import RawTensor
from prestage.loader.memory.region import Piece
from prestage.loader.plan import Part

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

    def of_part(self, piece: Piece | None, part: Part) -> torch.Tensor:
        """The tensor, contiguous, with a storage of its own size."""
        dtype = _dtype(part.info)
        shape = _packed_shape(part.info, part.shape)
        if piece is None:
            return self._placed(torch.zeros(shape, dtype=dtype, device="cpu"))
        raw = torch.frombuffer(piece, dtype=torch.uint8)
        if part.runs > 1:
            raw = raw.as_strided((part.runs, part.run_bytes), (part.stride_bytes, 1)).reshape(-1)
        return self._placed(raw.view(dtype).reshape(shape))

    def of_buffer(self, buffer: Buffer | None, part: Part, device: tuple[int, int]) -> torch.Tensor:
        """The tensor on the device, in torch's own memory or, where `start` read before torch was there, in the driver's."""
        dtype = _dtype(part.info)
        shape = _packed_shape(part.info, part.shape)
        if buffer is None:
            return torch.zeros(shape, dtype=dtype, device=self._device)
        if isinstance(buffer, TorchBuffer):
            raw = buffer.tensor
        else:
            # as bytes: torch before 2.6 knows no 8-bit float in DLPack
            raw = torch.from_dlpack(RawTensor(buffer.address, (part.size_bytes,), DTYPES["U8"], device=device, owner=buffer))
        return raw.view(dtype).reshape(shape)

    def cast(self, tensor: torch.Tensor, dtype: object) -> torch.Tensor:
        """As torch's `to`; `dtype` is a torch.dtype or its name."""
        wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(wanted, torch.dtype):
            raise Unsupported(f"dtype {dtype!r} is invalid", hint='use a torch.dtype or a name such as "bfloat16"')
        return tensor.to(wanted)

    def refuse(self, part: Part) -> None:
        """Dtypes that torch lacks, packed shapes that it cannot hold."""
        _dtype(part.info)
        _packed_shape(part.info, part.shape)

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device != "cpu":
            return tensor.to(self._device)
        return tensor.clone() if self._private else tensor


class TorchBuffer:
    """Bytes of torch's caching allocator."""

    def __init__(self, size_bytes: int, device: torch.device) -> None:
        self.tensor = torch.empty(size_bytes, dtype=torch.uint8, device=device)
        self.address = self.tensor.data_ptr()


class TorchMemory:
    """An `Allocator` of a load's results in torch's own memory, so that torch counts, pools and frees it."""

    def __init__(self, index: int) -> None:
        self._device = torch.device("cuda", index)
        self.piece_bytes = 0  # what shares an allocation can be neither resized nor sent to another process

    def allocate(self, size_bytes: int) -> Buffer:
        """Raises: torch.OutOfMemoryError."""
        return TorchBuffer(size_bytes, self._device)

    def settle(self) -> None:
        """Kernels may still use what the allocator hands out again."""
        torch.cuda.current_stream(self._device).synchronize()

    def spare_bytes(self) -> int:
        """What a model that went before has left in torch's cache: the driver does not count it as free."""
        return int(torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device))


def cuda_index(device: str | int) -> int:
    """The number behind "cuda", "cuda:1" or 1, as torch counts. Raises: Unsupported, RuntimeError: it is no CUDA device."""
    found = torch.device(device)
    if found.type != "cuda" or torch.version.hip:
        raise Unsupported(f"device {device!r} has no CUDA driver")
    index = found.index
    return torch.cuda.current_device() if index is None else int(index)


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
    dtype = _dtype(info)
    shape = _packed_shape(info, info.shape)
    count = info.stop - info.start
    if not count:
        return torch.zeros(shape, dtype=dtype, device="cpu")
    # a storage per tensor, exactly as long as the tensor: torch.save() of one writes that one, and tied weights are told apart
    return torch.frombuffer(mapped.view, dtype=torch.uint8, count=count, offset=info.start).view(dtype).reshape(shape)


def _dtype(info: TensorInfo) -> torch.dtype:
    dtype = getattr(torch, info.dtype.torch, None) if info.dtype.torch else None
    if dtype is None:
        raise UnsupportedDtype(
            f"Dtype not understood: {info.dtype.code} of tensor {info.name!r}", hint="a newer torch may know it"
        )
    found: torch.dtype = dtype
    return found


def _packed_shape(info: TensorInfo, shape: tuple[int, ...]) -> tuple[int, ...]:
    if info.dtype.bits >= 8:
        return shape
    per_byte = 8 // info.dtype.bits
    if not shape or shape[-1] % per_byte:
        raise UnsupportedDtype(
            f"{info.dtype.code} tensor {info.name!r} of shape {list(shape)} has no last dimension divisible by {per_byte}",
            hint="torch packs that many elements in a byte",
        )
    return (*shape[:-1], shape[-1] // per_byte)
