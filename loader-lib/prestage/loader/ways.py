"""How a block's bytes come into memory, and which way is taken when. Pure."""

from __future__ import annotations

from enum import Enum


class Way(Enum):
    """From the file to where a tensor may show them; the value is what a person reads."""

    MAPPED = "mapped"
    """They are in the page cache, which the tensor shows: no copy."""
    POPULATED = "mapped, read through the page cache"
    """They are not there yet: the kernel reads them into the page cache, once for every process of the node."""
    DIRECT = "O_DIRECT"
    """Read past the page cache into memory of our own."""
    COPIED = "copied from the page cache"
    """Read through the page cache into memory of our own."""
    REGISTERED = "page cache to device"
    """The device's copy engine reads the page cache itself."""


class Destination(Enum):
    """Where CPU tensors may live."""

    AUTO = "auto"
    """What is resident is mapped, what is not is read past the page cache into private memory, as far as the budget goes."""
    MAPPED = "mapped"
    """The page cache, copy-on-write."""
    PRIVATE = "private"
    """Memory of our own."""


def host_way(destination: Destination, *, resident: bool, readers: int, has_room: bool) -> Way:
    """For a block whose tensors stay on the host; `has_room` is for AUTO, PRIVATE has waited for its room.

    With several readers expected, nobody reads past the page cache: the disk would be read once for each.
    """
    if destination is Destination.PRIVATE:
        return Way.COPIED if resident or readers > 1 else Way.DIRECT
    if resident:
        return Way.MAPPED
    if destination is Destination.MAPPED or readers > 1 or not has_room:
        return Way.POPULATED
    return Way.DIRECT


def device_way(*, resident: bool, readers: int, registers: bool) -> Way:
    """For a block that goes to an accelerator; `registers`: its copy engine may read the page cache, and does so faster."""
    if resident:
        return Way.REGISTERED if registers else Way.COPIED
    return Way.COPIED if readers > 1 else Way.DIRECT
