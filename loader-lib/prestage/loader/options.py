"""What a load is asked for, apart from the framework that shows it. `start` and `open_model` meet here. Checked, pure."""

from __future__ import annotations

import os
from dataclasses import dataclass

from prestage.loader.errors import Unsupported
from prestage.loader.plan import Names, Slices
from prestage.loader.sums import VERIFY_MODES
from prestage.loader.ways import Destination

PINNED_BYTES = 128 << 20
"""Of the ring to a device: two slots of 8 MiB for each of 8 threads. Pinning takes about 0.07 s at 1.8 GB/s."""


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of `open_model`, in one value."""

    path: str
    device: str | int
    names: Names
    slices: Slices
    verify: str
    readers: int
    host_bytes: int | None
    """None: nine tenths of what is available when the load begins."""
    pinned_bytes: int
    device_bytes: int | None
    """None: what the device has free when the load begins."""
    destination: Destination

    @property
    def on_host(self) -> bool:
        """Whether tensors stay there."""
        return self.device == "cpu"


def index_of(device: str | int) -> int:
    """The number of a CUDA device: 0 for "cuda", 1 for "cuda:1" or 1. Raises: Unsupported: it is none."""
    if isinstance(device, int) and device >= 0:
        return device
    kind, colon, index = str(device).partition(":")
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise Unsupported(f"device {device!r} is invalid", hint='use "cpu", "cuda", "cuda:<index>" or an index')
    return int(index or 0)


def options(
    path: str | os.PathLike[str],
    *,
    device: str | int | None,
    names: Names,
    slices: Slices,
    verify: str,
    readers: int,
    host_bytes: int | None,
    pinned_bytes: int,
    device_bytes: int | None,
    destination: str,
) -> Options:
    """The arguments, checked.

    Raises:
        Unsupported, TypeError: one of them is wrong.
    """
    named = os.fspath(path)
    if not isinstance(named, str):
        raise TypeError(f"path: {type(named).__name__!r} is not an instance of 'str'")
    if verify not in VERIFY_MODES:
        raise Unsupported(f"verify {verify!r} is invalid (expected one of: {', '.join(VERIFY_MODES)})")
    if readers < 1:
        raise Unsupported(f"readers {readers!r} is invalid", hint="say how many processes load these files at about this time")
    for budget, size in (("host_bytes", host_bytes), ("pinned_bytes", pinned_bytes), ("device_bytes", device_bytes)):
        if size is not None and size < 0:
            raise Unsupported(f"{budget} {size!r} is invalid")
    try:
        where = Destination(destination)
    except ValueError:
        known = ", ".join(each.value for each in Destination)
        raise Unsupported(f"destination {destination!r} is invalid (expected one of: {known})") from None
    return Options(
        path=named,
        device="cpu" if device is None else device,
        names=names,
        slices=slices,
        verify=verify,
        readers=readers,
        host_bytes=host_bytes,
        pinned_bytes=pinned_bytes,
        device_bytes=device_bytes,
        destination=where,
    )
