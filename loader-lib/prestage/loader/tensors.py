"""Which framework makes the tensors: found by the names that the safetensors library knows, imported only then."""

from __future__ import annotations

from prestage.loader.errors import Unsupported
from prestage.loader.ports import FullFramework, ModelFramework

TORCH = ("pt", "torch", "pytorch")
NUMPY = ("np", "numpy")
RAW = "dlpack"
"""No framework: tensors that are handed on by DLPack. Of `open_model` only."""


def framework(name: str, device: str | int | None, *, private: bool) -> FullFramework:
    """The framework's side. Raises: Unsupported: no such name, or it does not know the device."""
    if not isinstance(name, str):
        raise TypeError(f"framework: {type(name).__name__!r} object is not an instance of 'str'")
    if name in TORCH:
        from prestage.loader.torch_tensors import TorchTensors

        return TorchTensors(device, private=private)
    if name in NUMPY:
        if device not in (None, "cpu"):
            raise Unsupported(f"Device {device} is not supported for framework numpy")
        from prestage.loader.numpy_arrays import NumpyArrays

        return NumpyArrays(private=private)
    raise Unsupported(f"framework {name} is invalid", hint='use "pt" or "np"')


def model_framework(name: str, device: str | int | None) -> ModelFramework:
    """The framework's side for `open_model`. Raises: as `framework`."""
    if name == RAW:
        from prestage.loader.raw_tensors import RawTensors

        return RawTensors()
    return framework(name, device, private=False)
