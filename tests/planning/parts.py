"""What it costs to know what models share: `PYTHONPATH=tests python -m planning.parts`. By hand, as `planning.scale`."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from collections.abc import Iterator

from planning.scale import NOW, large

from prestage.control.demand.contents import FILES_MAX, PARTS, Contents
from prestage.kube.ports import Object
from prestage.planner.likeness import Parts
from prestage.planner.plan import Rules, plan

_MODELS, _NODES = 2000, 5000
_FILE_BYTES = 4 * 10**9
_TOKENIZER, _TOKENIZER_BYTES = 1, 17 * 10**6


def revisions(each: int, *, files: int = FILES_MAX, anew: float = 0.25, seed: int = 1) -> Iterator[Object]:
    """Families of `each` that differ in a share `anew` of their largest files, and one tokenizer that all have. As the mirror
    keeps an Artifact; a part is a number and its bytes."""
    chance, part = random.Random(seed), struct.Struct("<QQ")
    family = list[int]()
    for number in range(_MODELS):
        if number % each == 0:
            family = [chance.getrandbits(64) for _ in range(files - 1)]
        own = [chance.getrandbits(64) if chance.random() < anew else name for name in family]
        packed = b"".join(part.pack(name, _FILE_BYTES) for name in own) + part.pack(_TOKENIZER, _TOKENIZER_BYTES)
        yield {"spec": {"digest": f"a{number:05}"}, PARTS: packed}


def main() -> None:
    """Prints."""
    demands, states, uses = large(nodes=_NODES, models=_MODELS)
    for name, each in (
        ("none", 0),
        ("revisions, 4 of each model", 4),
        ("revisions, 50 of each model", 50),
        ("all of one model", _MODELS),
    ):
        artifacts = list(revisions(each)) if each else []
        tracemalloc.start()
        began = time.process_time()
        contents = Contents()
        parts: Parts = contents.look(artifacts)
        looked_s, held = time.process_time() - began, tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        began = time.process_time()
        plan(demands, states, NOW, rules=Rules(peers=False, origin_bytes_per_s=40e9), uses=uses, parts=parts)
        took_s = time.process_time() - began
        packed = sum(len(one) for artifact in artifacts if isinstance(one := artifact[PARTS], bytes))
        print(
            f"{name}: {len(parts.holders)} shared parts of {_MODELS} models, {held / 2**20:.1f} MiB"
            f" and {packed / 2**20:.1f} packed, {looked_s:.2f} s to read; full plan of {_NODES} nodes {took_s:.2f} s CPU"
        )


if __name__ == "__main__":
    main()
