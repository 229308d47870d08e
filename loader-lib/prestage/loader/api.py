"""`open_model` and `start`: the whole-model verbs. What they do is imported when they are called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prestage.loader.model import Model
    from prestage.loader.plan import Names, Slices

_PINNED_BYTES = 128 << 20


def open_model(
    path: str | os.PathLike[str],
    *,
    framework: str = "pt",
    device: str | int | None = "cpu",
    names: Names = None,
    slices: Slices = None,
    dtype: Any = None,
    verify: str = "auto",
    readers: int = 1,
    host_bytes: int | None = None,
    pinned_bytes: int = _PINNED_BYTES,
    device_bytes: int | None = None,
    destination: str = "auto",
) -> Model:
    """Load a whole checkpoint, all shards in one plan. Returns once the headers are read; bytes arrive in the background.

        with open_model(path) as model:
            for name, tensor in model.items(): ...

    path: a folder (its index is checked against the shards), an index.json or a safetensors file. framework: "pt" or "np".
    names: a collection, or a function that says which tensors are wanted. slices: by name, a slice of the rows or a tuple of
    slices (rows and one other dimension, in steps of 1). Only what is asked for is read, in whole pages (verified: chunks).
    dtype: 16-, 32- and 64-bit floats are cast; packed and 8-bit numbers, integers and booleans are left as they are.
    verify: "auto", "require" or "off", as `safe_open`.
    readers: how many processes read these files at about the same time (tensor-parallel ranks, replicas). Above 1 every byte goes
    through the page cache, so that the disk is read once.
    host_bytes: of private host memory, default nine tenths of what is available. pinned_bytes: of the ring to a device,
    default 128 MiB. device_bytes: default what is free there.
    destination (CPU): "mapped" shows the page cache. "private" is memory of its own, and reads on only while the tensors that
    you keep fit host_bytes. "auto" maps what is resident and reads the rest past the page cache, as far as host_bytes go.

    Raises:
        OSError, InvalidFile, InvalidCheckpoint, UnknownTensor, UnsupportedDtype, BadIndex, Unsupported: nothing is being read.
        CorruptFile: here or, more often, when a tensor is asked for; that tensor is never returned.
        VerifyUnavailable: "require" without sums, or sums that cannot be understood.
        OverBudget, DeviceError: device only; nothing is left on it.
    """
    from prestage.loader.options import Options
    from prestage.loader.started import opened

    options = Options(
        os.fspath(path),
        device="cpu" if device is None else device,
        names=names,
        slices=slices,
        verify=verify,
        readers=readers,
        host_bytes=host_bytes,
        pinned_bytes=pinned_bytes,
        device_bytes=device_bytes,
        destination=destination,
    )
    return opened(options, framework, dtype)


def start(
    path: str | os.PathLike[str],
    *,
    device: str | int | None = "cpu",
    names: Names = None,
    slices: Slices = None,
    verify: str = "auto",
    readers: int = 1,
    host_bytes: int | None = None,
    pinned_bytes: int = _PINNED_BYTES,
    device_bytes: int | None = None,
    destination: str = "auto",
) -> None:
    """Begin to read a checkpoint while the framework is still being imported. Returns at once.

        import prestage.loader; prestage.loader.start(path)      # line 1
        import torch                                             # 2 s, in which 6 GB arrive
        model = prestage.loader.open_model(path)                 # takes what is there

    `open_model` with the same arguments takes the load over, once; with others it begins anew and drops what was read. Errors
    are raised there. A load that nobody takes ends with the process.

    Raises:
        Unsupported: an argument is wrong.
    """
    from prestage.loader.options import Options
    from prestage.loader.started import begin

    options = Options(
        os.fspath(path),
        device="cpu" if device is None else device,
        names=names,
        slices=slices,
        verify=verify,
        readers=readers,
        host_bytes=host_bytes,
        pinned_bytes=pinned_bytes,
        device_bytes=device_bytes,
        destination=destination,
    )
    begin(options)
