"""Tensors without any framework: `open_model(path, framework="dlpack")`."""

from __future__ import annotations

import ctypes

from prestage.loader.errors import Unsupported, UnsupportedDtype
from prestage.loader.memory.device import Buffer
from prestage.loader.memory.dlpack import RawTensor
from prestage.loader.memory.region import Piece
from prestage.loader.plan import Part

_HOST = (1, 0)


class RawTensors:
    """A `ModelFramework` whose tensors know their address, shape and dtype, and `__dlpack__`."""

    def of_part(self, piece: Piece | None, part: Part) -> RawTensor:
        """On the host; several runs are brought together in a copy."""
        owner = piece if piece is None or part.runs == 1 else _gathered(piece, part)
        address = ctypes.addressof(owner) if owner is not None else 0
        return RawTensor(address, part.shape, part.info.dtype, device=_HOST, owner=owner)

    def of_buffer(self, buffer: Buffer | None, part: Part, device: tuple[int, int]) -> RawTensor:
        """On the device."""
        return RawTensor(buffer.address if buffer else 0, part.shape, part.info.dtype, device=device, owner=buffer)

    def cast(self, tensor: RawTensor, dtype: object) -> RawTensor:
        """Needs a framework. Raises: Unsupported."""
        raise Unsupported(f"dtype {dtype!r} with framework 'dlpack'", hint="cast in the framework that takes the tensors")

    def refuse(self, part: Part) -> None:
        """Elements that are no whole bytes."""
        if part.info.dtype.bits % 8:
            raise UnsupportedDtype(f"DLPack consumers disagree about {part.info.dtype.code} of tensor {part.info.name!r}")


def _gathered(piece: Piece, part: Part) -> Piece:
    whole = (ctypes.c_char * part.size_bytes)()
    source, target = ctypes.addressof(piece), ctypes.addressof(whole)
    for run in range(part.runs):
        ctypes.memmove(target + run * part.run_bytes, source + run * part.stride_bytes, part.run_bytes)
    return whole
