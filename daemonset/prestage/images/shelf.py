"""What is staged on this node, and whether anybody used it: read off containerd, which alone knows.

That an image was pulled is noted on its config (a label), for image records go with the kubelet's garbage collection.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import NotFound
from prestage.images import leasing
from prestage.images.containerd.leases import CONTENT, Resource
from prestage.images.leasing import Terms
from prestage.images.names import OciDigest
from prestage.images.runtime import Containerd
from prestage.images.use import Records, Use, children

State = Literal["warm", "staging"]
_PULLED: Final = "prestage.dev/pulled"


@dataclass(frozen=True, slots=True)
class ShelfRow:
    """One image under a lease of ours."""

    artifact: ArtifactId
    name: str
    state: State
    """`warm`: unpacked to the top."""
    size_bytes: int
    """Of its blobs, compressed."""
    expires_at: float
    use: Use = Use.UNUSED
    wasted_bytes: int = 0
    """Of an image whose tag has moved: blobs that what was pulled instead has not."""


async def listed(containerd: Containerd) -> Sequence[ShelfRow]:
    """All of them, by name."""
    rows, records = [], await containerd.images.records()
    for artifact, leases in leasing.ours(await containerd.leases.all()).items():
        terms = leases[0].terms
        held = {one for lease in leases for one in await containerd.leases.resources(lease.id)}
        whole = {Resource(CONTENT, terms.config), Resource(f"snapshots/{terms.snapshotter}", terms.top)} <= held
        use, wasted = await _use(containerd, terms, held, records) if whole else (Use.UNUSED, 0)
        expires_at = min(lease.expires_at for lease in leases)  # a renewal that was cut off leaves the old one some of it
        rows.append(ShelfRow(artifact, terms.name, "warm" if whole else "staging", terms.size_bytes, expires_at, use, wasted))
    return sorted(rows, key=lambda row: (row.name, row.artifact))


async def _use(containerd: Containerd, terms: Terms, held: Collection[Resource], records: Records) -> tuple[Use, int]:
    """And how many bytes were for nothing."""
    config = await containerd.content.info(terms.config)
    if config is None:
        return Use.UNUSED, 0
    if _PULLED in config.labels:
        return Use.USED, 0
    waste = records.waste(terms.name, terms.roots, config.created_at.ToNanoseconds() / 1e9)
    if waste.use is Use.USED:
        with suppress(NotFound):
            await containerd.content.label(terms.config, {_PULLED: "true"})
    if waste.other is None:
        return waste.use, 0
    blobs = {one.id for one in held if one.type == CONTENT} - {terms.config}
    if not blobs:  # let go of once they were unpacked: which of them were of use is not known
        return waste.use, terms.size_bytes
    return waste.use, await _size(containerd, blobs - await _kept(containerd, waste.other))


async def _kept(containerd: Containerd, root: OciDigest) -> set[str]:
    """Every blob of an image that was pulled."""
    found: set[str] = set()
    looking = [str(root)]
    while looking:
        info = await containerd.content.info(OciDigest(looking.pop()))
        fresh = set(children(info.labels)) - found if info is not None else set()
        found |= fresh
        looking.extend(fresh)
    return found


async def _size(containerd: Containerd, blobs: Collection[str]) -> int:
    infos = [await containerd.content.info(OciDigest(digest)) for digest in blobs]
    return sum(info.size for info in infos if info is not None)
