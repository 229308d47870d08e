"""What is staged on this node: read off containerd, which alone knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prestage.cacher.digests import ArtifactId
from prestage.images import leasing
from prestage.images.containerd.leases import CONTENT, Resource
from prestage.images.runtime import Containerd

State = Literal["warm", "staging"]


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


async def listed(containerd: Containerd) -> Sequence[ShelfRow]:
    """All of them, by name."""
    rows = []
    for artifact, leases in leasing.ours(await containerd.leases.all()).items():
        terms = leases[0].terms
        held = {one for lease in leases for one in await containerd.leases.resources(lease.id)}
        whole = {Resource(CONTENT, terms.config), Resource(f"snapshots/{terms.snapshotter}", terms.top)} <= held
        expires_at = max(lease.expires_at for lease in leases)
        rows.append(ShelfRow(artifact, terms.name, "warm" if whole else "staging", terms.size_bytes, expires_at))
    return sorted(rows, key=lambda row: (row.name, row.artifact))
