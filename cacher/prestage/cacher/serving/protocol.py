"""The words of the peer protocol, for both sides. Pure; docs/serving.md draws it.

/v1/blobs/<blake3-tree:hex>             the bytes
/v1/blobs/<blake3-tree:hex>/meta        Meta: what the bytes are proved against
/v1/blobs/<blake3-tree:hex>/pieces/<n>  16 MiB of them
/v1/ingests/<id>                        Progress of a blob that is being fetched
/v1/ingests/<id>/pieces/<n>             a piece of it that is journaled
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prestage.cacher.digests import (
    CHUNK_BYTES,
    CHUNK_SUM_BYTES,
    PIECE_BYTES,
    PIECE_DIGEST_BYTES,
    BlobId,
    blob_id,
    chunk_count,
    piece_count,
    tree_digest,
)
from prestage.cacher.errors import Corrupt, PrestageError

FORMAT = 1
PIECE_HEADER = "Prestage-Piece"
"""Of a piece: `blake3:<hex>`."""
BLOB_HEADER = "Prestage-Blob"
"""Of what an ingest turned out to be: `blake3-tree:<hex>`."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What follows from a blob's bytes: its size, the BLAKE3 of each piece, the xxh3-128 of each chunk."""

    size_bytes: int
    pieces: Sequence[bytes]
    chunk_sums: bytes

    def to_bytes(self) -> bytes:
        """On the wire."""
        document = {
            "format": FORMAT,
            "size": self.size_bytes,
            "piece_bytes": PIECE_BYTES,
            "pieces": b"".join(self.pieces).hex(),
            "chunk_bytes": CHUNK_BYTES,
            "chunks": self.chunk_sums.hex(),
        }
        return json.dumps(document).encode()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an ingest is: `pieces` were journaled in this order after the first `first` of `records`."""

    size_bytes: int
    records: int
    first: int
    pieces: Mapping[int, bytes] = field(default_factory=dict)
    """Piece -> its BLAKE3."""
    blob: BlobId | None = None
    """What it turned out to be: published."""

    def to_bytes(self) -> bytes:
        """On the wire."""
        document = {
            "format": FORMAT,
            "size": self.size_bytes,
            "records": self.records,
            "first": self.first,
            "pieces": [[piece, digest.hex()] for piece, digest in self.pieces.items()],
            "blob": self.blob,
        }
        return json.dumps(document).encode()


def read_meta(raw: bytes, blob: BlobId) -> Meta:
    """A peer's answer, proved against the blob's name.

    Raises:
        Corrupt: malformed, or of other bytes.
    """
    try:
        document = json.loads(raw)
        if (document["format"], document["piece_bytes"], document["chunk_bytes"]) != (FORMAT, PIECE_BYTES, CHUNK_BYTES):
            raise Corrupt(f"the meta of {blob} is of another version", hint="run the same version of prestage on both nodes")
        digests = bytes.fromhex(document["pieces"])
        pieces = [digests[at : at + PIECE_DIGEST_BYTES] for at in range(0, len(digests), PIECE_DIGEST_BYTES)]
        meta = Meta(_count(document["size"]), pieces, bytes.fromhex(document["chunks"]))
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as exc:
        raise Corrupt(f"the meta of {blob} is malformed: {type(exc).__name__}", hint="fetch it elsewhere") from exc
    right = len(pieces) == piece_count(meta.size_bytes) and len(digests) == PIECE_DIGEST_BYTES * len(pieces)
    right = right and len(meta.chunk_sums) == CHUNK_SUM_BYTES * chunk_count(meta.size_bytes)
    if not right or tree_digest(meta.size_bytes, pieces) != blob:
        raise Corrupt(f"the meta of {blob} is of other bytes", hint="fetch it elsewhere")
    return meta


def read_progress(raw: bytes, size_bytes: int) -> Progress:
    """A peer's answer about an ingest of a file of `size_bytes`.

    Raises:
        Corrupt: malformed, or of another file.
    """
    try:
        document = json.loads(raw)
        if document["format"] != FORMAT or document["size"] != size_bytes:
            raise Corrupt("the progress of an ingest is of another version or file", hint="fetch it elsewhere")
        pieces = {_count(piece): bytes.fromhex(digest) for piece, digest in document["pieces"]}
        blob = None if document["blob"] is None else blob_id(document["blob"])
        progress = Progress(size_bytes, _count(document["records"]), _count(document["first"]), pieces, blob)
    except Corrupt:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError, PrestageError) as exc:
        raise Corrupt(f"the progress of an ingest is malformed: {type(exc).__name__}", hint="fetch it elsewhere") from exc
    known = all(piece < piece_count(size_bytes) and len(digest) == PIECE_DIGEST_BYTES for piece, digest in pieces.items())
    if not known or progress.records > piece_count(size_bytes) or progress.first > progress.records:
        raise Corrupt("the progress of an ingest names pieces that the file has not", hint="fetch it elsewhere")
    return progress


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(value)
    return value
