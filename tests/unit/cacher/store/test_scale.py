"""A store of 10^5 blobs: opened in less than a second, and again after its index was lost. Figures: docs/figures.md.

Other tests run beside this one: what is judged is time on a CPU, and all of it is on tmpfs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stores.making import stage
from stores.scenarios import SMALL

from prestage.cacher.digests import chunk_sum, hex_of, piece_hasher
from prestage.cacher.store.blobs import BlobMeta
from prestage.cacher.store.store import Store

COUNT = 100_000


def publish_many(root: Path, count: int) -> None:
    """Blobs as a publish leaves them, without the fsyncs."""
    for number in range(count):
        data = b"blob %d" % number
        hasher = piece_hasher()
        hasher.update(data)
        meta = BlobMeta(len(data), (hasher.digest(),), chunk_sum(data), frozenset({f"sha256:{number:064x}"}), frozenset({"s3:b"}))
        name = hex_of(meta.blob)
        shelf = root / "blobs" / name[:2]
        shelf.mkdir(exist_ok=True)
        for path, raw in ((shelf / name, data), (shelf / f"{name}.meta", meta.to_bytes())):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o444)
            os.write(fd, raw)
            os.close(fd)


def opened_in(root: Path) -> float:
    began = time.process_time()
    with Store.open(root, own=True) as store:
        seconds = time.process_time() - began
        assert store.warnings == []
        assert store.used_bytes() >= COUNT * 4096
    return seconds


@pytest.mark.slow
def test_a_store_of_a_hundred_thousand_blobs_opens_in_less_than_a_second(
    fast_path: Path, record_property: Callable[[str, object], None]
) -> None:
    root = fast_path / "store"
    Store.open(root, own=True).close()
    publish_many(root, COUNT)
    rebuilt_s = opened_in(root)
    seconds = min(opened_in(root) for _ in range(3))
    record_property("opened_s", f"{seconds:.2f}")
    record_property("rebuilt_s", f"{rebuilt_s:.2f}")
    print(f"opened in {seconds:.2f} s, with its index made anew in {rebuilt_s:.2f} s")
    assert seconds < 1.0
    assert rebuilt_s < 60.0
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
        began = time.process_time()
        assert store.evict(SMALL.artifact) > 0
        assert time.process_time() - began < 3.0
