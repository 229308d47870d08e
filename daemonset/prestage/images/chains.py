"""Chain IDs: the name under which containerd keeps the unpacked stack up to a layer. Pure. OCI image-spec, "Layer ChainID".

containerd believes whoever commits a snapshot under such a name and never looks again, and every later pull of any image with
that stack uses it. So nothing is committed but under what `chain_ids` says of the config, on the parent that it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NewType

from prestage.images.names import OciDigest

ChainId = NewType("ChainId", str)
"""`sha256:<hex>`."""


def chain_ids(diff_ids: Iterable[OciDigest]) -> tuple[ChainId, ...]:
    """One for each layer, lowest first."""
    chain: list[ChainId] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else None
        chain.append(ChainId(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}") if text else ChainId(diff_id))
    return tuple(chain)
