"""What a load is asked for, apart from the framework that shows it. `start` and `open_model` meet here. Checked, pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prestage.loader.errors import Unsupported
from prestage.loader.plan import Names, Slices
from prestage.loader.sums import VERIFY_MODES
from prestage.loader.ways import Destination

PINNED_BYTES = 128 << 20
"""Of the ring to a device: a slot of 8 MiB for each of 12 threads, and four whose copies are on their way."""


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of `open_model` in one value, as they were given; what is in it was checked."""

    path: str
    device: str | int = "cpu"
    names: Names = None
    slices: Slices = None
    verify: str = "auto"
    readers: int = 1
    host_bytes: int | None = None
    """None: nine tenths of what is available when the load begins."""
    pinned_bytes: int = PINNED_BYTES
    device_bytes: int | None = None
    """None: what the device has free when the load begins."""
    destination: str = "auto"

    def __post_init__(self) -> None:
        """Raises: Unsupported, TypeError: an argument is wrong."""
        if not isinstance(self.path, str):
            raise TypeError(f"path: {type(self.path).__name__!r} is not an instance of 'str'")
        _refuse_unknown("verify", self.verify, VERIFY_MODES)
        _refuse_unknown("destination", self.destination, [each.value for each in Destination])
        if self.readers < 1:
            raise Unsupported(
                f"readers {self.readers!r} is invalid", hint="say how many processes load these files at about this time"
            )
        for budget in ("host_bytes", "pinned_bytes", "device_bytes"):
            size = getattr(self, budget)
            if size is not None and size < 0:
                raise Unsupported(f"{budget} {size!r} is invalid")

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


def _refuse_unknown(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise Unsupported(f"{name} {value!r} is invalid (expected one of: {', '.join(known)})")
