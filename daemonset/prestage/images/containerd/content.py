"""The content store: blobs by digest, ingests by ref. A blob is written at disk speed from a file of ours, in lockstep.

    STAT ─▶ offset of what an ingest already has   WRITE 1 MiB ─▶ …   COMMIT ─▶ checked by containerd, on our lease

The ref `layer-<digest>` is the one that pulls use: whoever comes second waits for the first. So a stream is never left idle;
it is closed, which keeps what was written and lets the other go on from there, and never aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
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
SILENCE_S = 60.0
COMMIT_BYTES_PER_S = 20e6
"""A commit syncs the blob: it may take so much longer."""


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
    """Where a blob's bytes are read from; called in worker threads."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """So many bytes; fewer only at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Writing:
    """How one blob is written."""

    blob: Descriptor
    ref: str
    lease: str
    labels: Mapping[str, str]


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
    ahead = await _read(source, offset, blob.size_bytes)
    while ahead:
        data, after = ahead, offset + len(ahead)
        request = ContentWriteRequest(action=WRITE, ref=ref, offset=offset, data=data)
        _, ahead = await asyncio.gather(_answered(call, request), _read(source, after, blob.size_bytes))
        offset = after
    commit = ContentWriteRequest(
        action=COMMIT, ref=ref, total=blob.size_bytes, expected=blob.digest, offset=offset, labels=writing.labels
    )
    await _answered(call, commit, SILENCE_S + blob.size_bytes / COMMIT_BYTES_PER_S)
    return Written.WRITTEN


async def _read(source: Bytes, offset: int, size_bytes: int) -> bytes:
    wanted = min(CHUNK_BYTES, size_bytes - offset)
    if not wanted:
        return b""
    data = await asyncio.to_thread(source.read, offset, wanted)
    if len(data) != wanted:
        raise Corrupt("a layer in our store is shorter than it should be", hint="it is fetched again")
    return data


async def _answered(call: Stream, request: ContentWriteRequest, timeout_s: float = SILENCE_S) -> ContentWriteAnswer:
    try:
        async with asyncio.timeout(timeout_s):
            await call.write(request)
            answer = await call.read()
    except TimeoutError:
        raise Unavailable(f"containerd said nothing for {timeout_s:.0f} s", hint="see its log; its disk may hang") from None
    if not isinstance(answer, ContentWriteAnswer):
        raise Unavailable("containerd ended a write", hint="try again")
    return answer
