"""Numpy arrays on a mapped file. The one place besides prestage.loader.numpy that imports numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from prestage.loader.errors import Unsupported, UnsupportedDtype
from prestage.loader.header import TensorInfo
from prestage.loader.mapped import MappedFile
from prestage.loader.memory.device import Buffer
from prestage.loader.memory.region import Piece
from prestage.loader.plan import Part
from prestage.loader.slicing import checked_index

Array = np.ndarray[Any, np.dtype[Any]]


class NumpyArrays:
    """Arrays are writable views of the private mapping; copies where `private` is set or the file misaligns them."""

    def __init__(self, *, private: bool) -> None:
        self._private = private

    def tensor(self, mapped: MappedFile, info: TensorInfo) -> Array:
        """The array, C-contiguous, aligned, little-endian as the file."""
        array = _mapped_array(mapped, info)
        return array.copy() if self._private or not array.flags.aligned else array

    def sliced(self, mapped: MappedFile, info: TensorInfo, index: object) -> Array:
        """A copy, as the safetensors library returns."""
        checked = checked_index(info, index)
        return np.array(_mapped_array(mapped, info)[checked], order="C")

    def of_part(self, piece: Piece | None, part: Part) -> Array:
        """The array, C-contiguous and aligned: a copy where the file misaligns it or several runs make it."""
        dtype = _dtype(part.info)
        if piece is None:
            return np.zeros(part.shape, dtype)
        raw = np.frombuffer(memoryview(piece), np.uint8)
        if part.runs > 1:
            runs = np.lib.stride_tricks.as_strided(raw, (part.runs, part.run_bytes), (part.stride_bytes, 1))
            raw = np.ascontiguousarray(runs).reshape(-1)
        array: Array = raw.view(dtype).reshape(part.shape)
        return array if array.flags.aligned and not self._private else array.copy()

    def of_buffer(self, buffer: Buffer | None, part: Part, device: tuple[int, int]) -> Array:
        """Numpy knows no device. Raises: Unsupported."""
        raise Unsupported("numpy has no arrays on a device", hint='use framework="pt" or "dlpack"')

    def cast(self, tensor: Array, dtype: object) -> Array:
        """As numpy's astype; `dtype` is what numpy.dtype() takes."""
        return tensor.astype(np.dtype(dtype), copy=False)  # type: ignore[call-overload] # numpy checks it

    def refuse(self, part: Part) -> None:
        """Dtypes that numpy lacks."""
        _dtype(part.info)


def _mapped_array(mapped: MappedFile, info: TensorInfo) -> Array:
    dtype = _dtype(info)
    count = (info.stop - info.start) // dtype.itemsize
    if not count:
        return np.zeros(info.shape, dtype)
    return np.frombuffer(mapped.view, dtype, count=count, offset=info.start).reshape(info.shape)


def _dtype(info: TensorInfo) -> np.dtype[Any]:
    if info.dtype.numpy is not None:
        try:
            return np.dtype(info.dtype.numpy)
        except TypeError:
            pass
    raise UnsupportedDtype(
        f"data type {info.dtype.code} of tensor {info.name!r} not understood by numpy",
        hint="import ml_dtypes first (BF16 and F8), or load it with torch",
    )
