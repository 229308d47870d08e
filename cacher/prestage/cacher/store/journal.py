"""The journal of an ingest: a row of 128-byte records, one a verified piece; see docs/format.md.

A reader takes what is whole and stops at the first record that is torn, misfits the file or whose check fails.
"""

from __future__ import annotations

import struct

import xxhash

from prestage.cacher.digests import CHUNK_SUM_BYTES, chunk_count, piece_count, piece_span
from prestage.cacher.transfer.ports import PieceRecord

RECORD_BYTES = 128
_MAGIC = b"PSJ1"
_BODY = struct.Struct("<4sIIIQ32s64s")
_CHECK = struct.Struct("<Q")


def encode(record: PieceRecord) -> bytes:
    """One record."""
    body = _BODY.pack(_MAGIC, record.piece, record.size_bytes, 0, record.checksum, record.digest, record.chunk_sums)
    return body + _CHECK.pack(xxhash.xxh3_64_intdigest(body))


def decode(raw: bytes, size_bytes: int) -> tuple[dict[int, PieceRecord], int]:
    """Records of a file of `size_bytes`, and how many bytes of `raw` they are."""
    records: dict[int, PieceRecord] = {}
    for at in range(0, len(raw) - RECORD_BYTES + 1, RECORD_BYTES):
        record = _decode_one(raw[at : at + RECORD_BYTES], size_bytes)
        if record is None:
            return records, at
        records[record.piece] = record
    return records, len(raw) - len(raw) % RECORD_BYTES


def _decode_one(raw: bytes, size_bytes: int) -> PieceRecord | None:
    body, check = raw[: _BODY.size], raw[_BODY.size :]
    if _CHECK.unpack(check)[0] != xxhash.xxh3_64_intdigest(body):
        return None
    magic, piece, length, zero, checksum, digest, sums = _BODY.unpack(body)
    if magic != _MAGIC or zero or piece >= piece_count(size_bytes):
        return None
    start, stop = piece_span(size_bytes, piece)
    if length != stop - start:
        return None
    return PieceRecord(piece, length, digest, sums[: CHUNK_SUM_BYTES * chunk_count(length)], checksum)
