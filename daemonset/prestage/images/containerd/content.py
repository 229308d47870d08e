"""The content store: blobs by digest, ingests by ref. A blob is written as its bytes come.

    STAT ─▶ offset of what an ingest already has   WRITE 1 MiB ─▶ …   COMMIT ─▶ SHA-256 checked by containerd, on our lease

The ref `layer-<digest>` is the one that pulls use: whoever comes second waits for the first. So a stream is never left idle:
after `IDLE_S` without bytes it is closed, which keeps what was written and lets the other go on from there, and never aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from prestage.cacher.errors import Corrupt, NotFound, PrestageError, Unavailable
from prestage.images.containerd.channel import AlreadyThere, Channel, Stream, translated
from prestage.images.descriptors import Descriptor
from prestage.images.names import OciDigest
from prestage.wire.containerd_pb2 import (
    COMMIT,
    STAT,
    WRITE,
    ContentAbortRequest,
    ContentInfo,
    ContentInfoAnswer,
    ContentInfoRequest,
    ContentListAnswer,
    ContentListRequest,
    ContentStatusesAnswer,
    ContentStatusesRequest,
    ContentUpdateRequest,
    ContentWriteAnswer,
    ContentWriteRequest,
)

_SERVICE = "/containerd.services.content.v1.Content"
CHUNK_BYTES = 1 << 20
"""Of one message: 1 MiB in lockstep is as fast as anything (recorded in docs/images.md)."""
IDLE_S = 5.0
"""Longest time that a stream is open without a byte: containerd 2.3 ends a pull that has waited for one too long."""
SILENCE_S = 60.0
COMMIT_BYTES_PER_S = 20e6
"""A commit syncs the blob: it may take so much longer."""
_DATA_TAG = bytes([ContentWriteRequest.DATA_FIELD_NUMBER << 3 | 2])


class Written(Enum):
    """What became of a blob."""

    EXISTS = "exists"
    """It was there; it is on our lease now."""
    WRITTEN = "written"


@dataclass(frozen=True, slots=True)
class Ingest:
    """A blob half written, by whomever."""

    ref: str
    offset: int
    total: int


class Bytes(Protocol):
    """Where a blob's bytes come from."""

    async def read(self, offset: int, size_bytes: int) -> memoryview:
        """At least one byte from `offset` on, at most so many; good until the next call."""
        ...

    async def arrival(self) -> None:
        """Until what was last asked for, and did not come in time, is here."""
        ...


class Starved(Exception):
    """No byte came for `IDLE_S`: the stream was closed, what was written stays."""


def _nothing(_: object = None) -> None:
    return


@dataclass(frozen=True, slots=True)
class Writing:
    """How one blob is written."""

    blob: Descriptor
    ref: str
    lease: str
    labels: Mapping[str, str]
    told: Callable[[int], None] = _nothing
    """How much of it containerd has."""
    fed: Callable[[], None] = _nothing
    """It has all; what is left is to check and to sync it."""


class Content:
    """See the module."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def info(self, digest: OciDigest) -> ContentInfo | None:
        """A committed blob, None where there is none."""
        try:
            answer = await self._channel.ask(f"{_SERVICE}/Info", ContentInfoRequest(digest=digest), ContentInfoAnswer)
        except NotFound:
            return None
        return answer.info

    async def all(self) -> AsyncIterator[ContentInfo]:
        """Every committed blob of the namespace."""
        async for answer in self._channel.listed(f"{_SERVICE}/List", ContentListRequest(), ContentListAnswer):
            for one in answer.info:
                yield one

    async def ingests(self) -> list[Ingest]:
        """Blobs half written."""
        answer = await self._channel.ask(f"{_SERVICE}/ListStatuses", ContentStatusesRequest(), ContentStatusesAnswer)
        return [Ingest(one.ref, one.offset, one.total) for one in answer.statuses]

    async def label(self, digest: OciDigest, labels: Mapping[str, str]) -> None:
        """Set these, leave others alone. Idempotent."""
        request = ContentUpdateRequest(
            info=ContentInfo(digest=digest, labels=labels), update_mask=FieldMask(paths=[f"labels.{key}" for key in labels])
        )
        await self._channel.ask(f"{_SERVICE}/Update", request, ContentInfoAnswer)

    async def write(self, writing: Writing, source: Bytes) -> Written:
        """Make `blob` one of the content store's, and of the lease. Cancelled, it closes the stream: what was written stays.

        Raises:
            Locked: another client writes this ref just now.
            Starved: `source` gives nothing just now.
            Corrupt: what lay in the ingest, or comes from `source`, is not the blob; the ingest is gone.
            PrestageError: as the channel says; what was written stays and is gone on from.
        """
        try:
            return await self._write(writing, source)
        except AlreadyThere:
            return Written.EXISTS
        except Corrupt:
            await self._abort(writing.ref)
            raise

    async def _write(self, writing: Writing, source: Bytes) -> Written:
        method = f"{_SERVICE}/Write"
        call = self._channel.stream(method, ContentWriteAnswer, writing.lease)
        try:
            return await _talk(call, writing, source)
        except grpc.RpcError as exc:
            raise translated(exc, method) from None
        except asyncio.InvalidStateError:  # the stream ended while we wrote into it: reading says why
            try:
                await call.read()
            except grpc.RpcError as exc:
                raise translated(exc, method) from None
            raise Unavailable("containerd ended a write", hint="try again") from None
        finally:
            call.cancel()

    async def _abort(self, ref: str) -> None:
        try:
            await self._channel.call(f"{_SERVICE}/Abort", ContentAbortRequest(ref=ref), Empty)
        except PrestageError:
            return  # gone already, or taken over by another client, who checks it himself


async def _talk(call: Stream, writing: Writing, source: Bytes) -> Written:
    blob, ref = writing.blob, writing.ref
    stat = ContentWriteRequest(action=STAT, ref=ref, total=blob.size_bytes, expected=blob.digest)
    offset = (await _answered(call, stat)).offset
    if offset > blob.size_bytes:
        raise Corrupt("containerd has more of a layer than it is long", hint="it is written again")
    await _feed(call, writing, source, offset)
    writing.fed()
    commit = ContentWriteRequest(
        action=COMMIT, ref=ref, total=blob.size_bytes, expected=blob.digest, offset=blob.size_bytes, labels=writing.labels
    )
    await _answered(call, commit, SILENCE_S + blob.size_bytes / COMMIT_BYTES_PER_S)
    return Written.WRITTEN


async def _feed(call: Stream, writing: Writing, source: Bytes, offset: int) -> None:
    """All from `offset` on; the next message is made while containerd writes the last one."""
    writing.told(offset)
    ahead = asyncio.ensure_future(_next(writing, source, offset))
    try:
        while (message := await ahead) is not None:
            ahead = asyncio.ensure_future(_next(writing, source, message.stop))
            await _answered(call, message.raw)
            writing.told(message.stop)
    finally:
        ahead.cancel()
        await asyncio.wait([ahead])
        if not ahead.cancelled():
            ahead.exception()  # another error is told


@dataclass(frozen=True, slots=True)
class _Message:
    raw: bytes
    stop: int


async def _next(writing: Writing, source: Bytes, offset: int) -> _Message | None:
    wanted = min(CHUNK_BYTES, writing.blob.size_bytes - offset)
    if not wanted:
        return None
    try:
        async with asyncio.timeout(IDLE_S):
            data = await source.read(offset, wanted)
    except TimeoutError:
        raise Starved from None
    assert len(data), "who reads sends one byte at least, or this never ends"
    return _Message(written(writing.ref, offset, data), offset + len(data))


def written(ref: str, offset: int, data: memoryview) -> bytes:
    """A WRITE message. Its fields are put one behind the other here, so that the bytes are copied once."""
    head = ContentWriteRequest(action=WRITE, ref=ref, offset=offset).SerializeToString()
    return b"".join((head, _DATA_TAG, _varint(len(data)), data))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


async def _answered(call: Stream, request: ContentWriteRequest | bytes, timeout_s: float = SILENCE_S) -> ContentWriteAnswer:
    try:
        async with asyncio.timeout(timeout_s):
            await call.write(request)
            answer = await call.read()
    except TimeoutError:
        raise Unavailable(f"containerd said nothing for {timeout_s:.0f} s", hint="see its log; its disk may hang") from None
    if not isinstance(answer, ContentWriteAnswer):
        raise Unavailable("containerd ended a write", hint="try again")
    return answer
