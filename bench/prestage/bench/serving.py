"""A serving process, as small as one can be: import, get the model, load it, answer once, say how long each took.

    python -m prestage.bench.serving SETTINGS      SETTINGS and the one line it prints are JSON

Settings: `spawned_at` (CLOCK_MONOTONIC of the parent just before the start: the interpreter's start is part of the import),
`loader` (safetensors | prestage), and either `folder` (the files are there) or `ref` and `into` (fetch them as pods do today).
Answer: `{"import_s", "fetch_s", "load_s", "first_use_s", "answer"}`; the answer is the embeddings of a BERT encoder, byte for
byte, and a checksum over every tensor byte of any other model: two runs that differ in it did not load the same weights.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.generic]]

TEXTS = (
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
)


def main() -> None:
    """One start."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    load_file = _import(settings)
    imported = time.monotonic()
    folder = _fetch(settings)
    fetched = time.monotonic()
    tensors = _load(folder, load_file)
    loaded = time.monotonic()
    answer = first_use(folder, tensors)
    used = time.monotonic()
    stamps = {
        "import_s": imported - settings["spawned_at"],
        "fetch_s": fetched - imported,
        "load_s": loaded - fetched,
        "first_use_s": used - loaded,
        "answer": base64.b64encode(answer).decode(),
    }
    sys.stdout.write(json.dumps(stamps) + "\n")


def _import(settings: Mapping[str, Any]) -> Callable[[str], Tensors]:
    import ml_dtypes  # noqa: F401 - numpy's bfloat16: safetensors looks it up by name
    import tokenizers  # noqa: F401 - every serving process has one

    if "ref" in settings:
        from prestage.bench import usual

        usual.import_client(settings["ref"])
    if settings["loader"] == "prestage":
        from prestage.loader.numpy import load_file as ours

        return ours
    from safetensors.numpy import load_file

    theirs: Callable[[str], Tensors] = load_file
    return theirs


def _fetch(settings: Mapping[str, Any]) -> Path:
    if "folder" in settings:
        return Path(settings["folder"])
    from prestage.bench import usual

    return usual.fetch(settings["ref"], Path(settings["into"]))


def _load(folder: Path, load_file: Callable[[str], Tensors]) -> Tensors:
    tensors: dict[str, NDArray[np.generic]] = {}
    for shard in sorted(folder.rglob("*.safetensors")):
        tensors |= load_file(str(shard))
    return tensors


def first_use(folder: Path, tensors: Tensors) -> bytes:
    """The first answer: all weights are touched."""
    config = folder / "config.json"
    kind = json.loads(config.read_text()).get("model_type") if config.is_file() else None
    if kind == "bert" and (folder / "tokenizer.json").is_file():
        from prestage.bench.minilm import MiniLM

        return MiniLM(folder, tensors).embed(TEXTS).tobytes()  # type: ignore[arg-type] # an encoder's weights are float32
    return _checksum(tensors).to_bytes(8, "little")


def _checksum(tensors: Tensors) -> int:
    """Sum of 64-bit words, weighted by the place of the tensor: order and content both count."""
    import numpy as np

    total = 0
    for place, name in enumerate(sorted(tensors), start=1):
        flat = np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8)
        whole = flat.size // 8 * 8
        words = int(flat[:whole].view(np.uint64).sum(dtype=np.uint64)) + int(flat[whole:].sum(dtype=np.uint64))
        total += place * words
    return total % 2**64


if __name__ == "__main__":
    main()
