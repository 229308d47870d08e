"""What staging an image takes, given what containerd has. Pure.

A chain that is there needs nothing below it. A blob is fetched only for a chain that is not there: containers run from snapshots.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from prestage.images.chains import ChainId
from prestage.images.descriptors import Descriptor
from prestage.images.image import Image, Layer
from prestage.images.names import OciDigest


class Need(Enum):
    """What one layer takes."""

    NOTHING = "nothing"
    UNPACK = "unpack"
    FETCH = "fetch"


@dataclass(frozen=True, slots=True)
class Seen:
    """What containerd has of an image."""

    chains: Collection[ChainId]
    blobs: Collection[OciDigest]


@dataclass(frozen=True, slots=True)
class Plan:
    """The layers in their order, each with what it takes."""

    steps: tuple[tuple[Layer, Need], ...]

    @property
    def fetches(self) -> tuple[Descriptor, ...]:
        """Blobs to bring, each once, in the order in which they are needed."""
        return tuple({layer.blob.digest: layer.blob for layer, need in self.steps if need is Need.FETCH}.values())

    @property
    def unpacks(self) -> tuple[Layer, ...]:
        """Layers to unpack, lowest first."""
        return tuple(layer for layer, need in self.steps if need is not Need.NOTHING)

    @property
    def fetch_bytes(self) -> int:
        """Over the registry's wire."""
        return sum(blob.size_bytes for blob in self.fetches)

    @property
    def unpack_bytes(self) -> int:
        """Compressed, of the layers to unpack."""
        return sum(layer.blob.size_bytes for layer in self.unpacks)

    @property
    def is_done(self) -> bool:
        """Nothing is left to fetch or to unpack."""
        return not self.unpacks


def plan(image: Image, seen: Seen) -> Plan:
    """What is missing."""
    there = max((number for number, layer in enumerate(image.layers) if layer.chain in seen.chains), default=-1)

    def need(number: int, layer: Layer) -> Need:
        if number <= there:
            return Need.NOTHING
        return Need.UNPACK if layer.blob.digest in seen.blobs else Need.FETCH

    return Plan(tuple((layer, need(number, layer)) for number, layer in enumerate(image.layers)))
