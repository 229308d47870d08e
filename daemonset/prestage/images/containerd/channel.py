"""One gRPC channel to containerd, in one of its namespaces: calls with deadlines, its statuses as errors of the house.

    NOT_FOUND -> NotFound                      UNAVAILABLE "locked" -> Locked: another client writes that blob just now
    ALREADY_EXISTS -> AlreadyThere             UNAVAILABLE, DEADLINE_EXCEEDED -> Unavailable
    PERMISSION_DENIED -> Denied                "no space left" in whatever -> Full
    "unexpected commit" digest -> Corrupt      UNIMPLEMENTED -> NotServed: a plugin of containerd's is off
    anything else -> Unavailable, with containerd's own words

What only reads is sent again for some seconds while nobody listens: containerd restarts in that time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import grpc
from google.protobuf.message import Message

from prestage.cacher.errors import Busy, Corrupt, Denied, Full, Misconfigured, NotFound, PrestageError, Unavailable

NAMESPACE = "k8s.io"
"""The kubelet's: snapshots are not shared between namespaces."""
CALL_S = 20.0
AGAIN_S = 8.0
_MESSAGE_MAX = 16 << 20
_OPTIONS = [("grpc.max_send_message_length", _MESSAGE_MAX), ("grpc.max_receive_message_length", 4 * _MESSAGE_MAX)]
_PAUSE_S = 0.2
_DETAIL_MAX = 200
_SECRET = re.compile(r"sha256:[0-9a-f]{64}")
_Answer = TypeVar("_Answer", bound=Message)


class AlreadyThere(PrestageError):
    """It exists by that name; nothing was changed."""


class Locked(Busy):
    """Another client writes this blob just now."""


class NotServed(Misconfigured):
    """This containerd has no such service."""


class Stream(Protocol):
    """A call that is open both ways: the part of grpc.aio's that is used."""

    async def write(self, request: Message | bytes) -> None:
        """Send one message, or one that is written already."""
        ...

    async def read(self) -> object:
        """The next answer, or grpc's mark that none will come."""
        ...

    def cancel(self) -> bool:
        """End it now. Idempotent."""
        ...


class Channel:
    """Open it with `async with`. Of one event loop."""

    def __init__(self, socket: Path, namespace: str = NAMESPACE) -> None:
        self.socket, self.namespace = socket, namespace
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        if not self.socket.is_socket():
            raise Misconfigured(f"{self.socket} is no socket", hint="name containerd's: /run/containerd/containerd.sock")
        self._channel = grpc.aio.insecure_channel(f"unix:{self.socket.absolute()}", options=_OPTIONS)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def ask(self, method: str, request: Message, answer: type[_Answer], *, timeout_s: float = CALL_S) -> _Answer:
        """A call that only reads, or that may be sent twice."""
        deadline = time.monotonic() + AGAIN_S
        while True:
            try:
                return await self.call(method, request, answer, timeout_s=timeout_s)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def call(
        self, method: str, request: Message, answer: type[_Answer], *, lease: str | None = None, timeout_s: float = CALL_S
    ) -> _Answer:
        """A call, sent once. With `lease`, what it makes is put on that lease.

        Raises:
            AlreadyThere, Locked, PrestageError: as the module says.
        """
        ask = self._open.unary_unary(method, request_serializer=_written, response_deserializer=answer.FromString)
        try:
            return await ask(request, timeout=timeout_s, metadata=self.metadata(lease))  # type: ignore[no-any-return]  # grpc is untyped
        except grpc.RpcError as exc:
            raise translated(exc, method) from None

    async def listed(
        self, method: str, request: Message, answer: type[_Answer], *, timeout_s: float = CALL_S
    ) -> AsyncIterator[_Answer]:
        """The messages of a call that streams them."""
        ask = self._open.unary_stream(method, request_serializer=_written, response_deserializer=answer.FromString)
        try:
            async for message in ask(request, timeout=timeout_s, metadata=self.metadata(None)):
                yield message
        except grpc.RpcError as exc:
            raise translated(exc, method) from None

    def stream(self, method: str, answer: type[Message], lease: str | None) -> Stream:
        """Both ways, open until its user ends it."""
        opening = self._open.stream_stream(method, request_serializer=_written, response_deserializer=answer.FromString)
        return opening(metadata=self.metadata(lease))  # type: ignore[no-any-return]  # grpc is untyped

    def metadata(self, lease: str | None) -> Sequence[tuple[str, str]]:
        """What goes with every call."""
        own = (("containerd-namespace", self.namespace),)
        return (*own, ("containerd-lease", lease)) if lease else own

    @property
    def _open(self) -> grpc.aio.Channel:
        assert self._channel is not None
        return self._channel


def translated(exc: grpc.RpcError, method: str) -> PrestageError:
    """containerd's status as an error of ours; digests are taken out of its words."""
    code, detail = exc.code(), str(exc.details() or "")
    name = method.rsplit("/", 1)[-1]
    said = _SECRET.sub("sha256:…", detail)[:_DETAIL_MAX]
    text = f"containerd's {name}: {said}"
    if "no space left" in detail or code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Full(text, hint="make room on containerd's file system")
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(text, hint="it may have been removed meanwhile")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotServed(text, hint="see which plugins containerd lists as failed: ctr plugins ls")
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return AlreadyThere(text)
    if code is grpc.StatusCode.UNAVAILABLE and "locked" in detail:
        return Locked(text, hint="another client writes it just now")
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return Denied(text, hint="staging needs containerd's socket as root")
    if code is grpc.StatusCode.FAILED_PRECONDITION and "unexpected commit" in detail:
        return Corrupt(text, hint="it is written again")
    return Unavailable(f"{text} ({code.name})", hint="see containerd's log, then try again")


def _written(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
