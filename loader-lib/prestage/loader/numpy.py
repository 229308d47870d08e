"""`load_file` for numpy, in the place of safetensors.numpy.load_file."""

from __future__ import annotations

import os

from prestage.loader.access import safe_open
from prestage.loader.numpy_arrays import Array

__all__ = ["load_file"]


def load_file(filename: str | os.PathLike[str], *, backend: str = "mmap", verify: str = "auto") -> dict[str, Array]:
    """Every array of the file by name, in the order of their bytes.

    Arrays are writable, C-contiguous and independent of each other and of the file. With `backend="mmap"` they map it
    copy-on-write, so it must not be rewritten in place while they live; `"pread"` copies. `verify`: see `safe_open`.

    Raises:
        FileNotFoundError, OSError, InvalidFile, CorruptFile, VerifyUnavailable, UnsupportedDtype: no array was returned.
    """
    with safe_open(filename, "np", backend=backend, verify=verify) as file:
        return file.get_tensors()
