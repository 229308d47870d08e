"""The last plan on disk, beside the store: what an agent goes by that starts while the API server is away.

<root>/node/plan.json   {"format": 1, "generation": …, "spec": {…}}
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec

from prestage.api.nodes import NodeCacheSpec
from prestage.cacher.store.layout import ABOVE

FORMAT = 1


class KeptPlan:
    """Blocks: a small file."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ABOVE
        self._path = self.folder / "plan.json"

    def load(self) -> tuple[NodeCacheSpec, int | None] | None:
        """None where there is none, or a damaged one."""
        try:
            document = json.loads(self._path.read_bytes())
            if document["format"] != FORMAT:
                return None
            generation = document.get("generation")
            return msgspec.convert(document["spec"], NodeCacheSpec), generation if isinstance(generation, int) else None
        except (OSError, ValueError, KeyError, TypeError, msgspec.ValidationError):
            return None

    def keep(self, spec: NodeCacheSpec, generation: int | None) -> None:
        """Whole, or as it was."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        beside = self._path.with_name(".plan.new")
        document = {"format": FORMAT, "generation": generation, "spec": msgspec.to_builtins(spec)}
        with beside.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self._path)
