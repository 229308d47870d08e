"""What peers of different versions tell each other: the files are what version 1 wrote, and must stay readable and the same."""

from __future__ import annotations

from pathlib import Path

from prestage.cacher.digests import PIECE_BYTES, BlobId
from prestage.cacher.serving.protocol import Progress, read_meta, read_progress

FIXTURES = Path(__file__).parent.parent / "fixtures"
HELLO = BlobId("blake3-tree:772d9dff2d312947cddee9a5c00a75a3a05889e64487b138ecb03eecc0d4b304")


def test_the_meta_of_version_1() -> None:
    raw = (FIXTURES / "peer_meta.json").read_bytes().strip()
    meta = read_meta(raw, HELLO)
    assert (meta.size_bytes, len(meta.pieces), len(meta.chunk_sums)) == (5, 1, 16)
    assert meta.to_bytes() == raw


def test_the_progress_of_version_1() -> None:
    raw = (FIXTURES / "peer_progress.json").read_bytes().strip()
    progress = read_progress(raw, 2 * PIECE_BYTES + 1)
    assert progress == Progress(2 * PIECE_BYTES + 1, 2, 1, {2: b"\1" * 32}, None)
    assert progress.to_bytes() == raw
