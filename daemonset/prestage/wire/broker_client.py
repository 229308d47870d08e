"""Asks the broker: what planner and nodes have of it (api/brokerage.py).

    token file       read for every request: the kubelet replaces it
    authority file   read again when it changed: rotations overlap
    sent again       while nobody answers, or with a 5xx or 429 that is no Refusal of class Busy; full jitter, until `deadline_s`
    refused          the cacher's error of the Refusal's class, with the Refusal itself by `refusal_of`

Every question may be asked twice: the broker changes nothing that it did not before.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import msgspec

from prestage.api.brokerage import (
    FetchesAnswer,
    FetchesRequest,
    ImageAnswer,
    ImageRequest,
    ManifestAnswer,
    ManifestRequest,
    Message,
    MountsAnswer,
    MountsRequest,
    RecordsAnswer,
    RecordsRequest,
    Refusal,
    Resolved,
    ResolveRequest,
)
from prestage.api.nodes import ErrorClass
from prestage.cacher.errors import (
    Bug,
    Busy,
    Corrupt,
    Denied,
    Full,
    Misconfigured,
    NotFound,
    PrestageError,
    Unavailable,
)

ERRORS: Final[Mapping[ErrorClass, type[PrestageError]]] = {
    ErrorClass.MISCONFIGURED: Misconfigured,
    ErrorClass.NOT_FOUND: NotFound,
    ErrorClass.DENIED: Denied,
    ErrorClass.CORRUPT: Corrupt,
    ErrorClass.BUSY: Busy,
    ErrorClass.FULL: Full,
    ErrorClass.UNAVAILABLE: Unavailable,
    ErrorClass.BUG: Bug,
}
_ANSWER_BYTES_MAX = 64 * 2**20
"""A manifest of 100,000 files."""
_CONNECT_S = 5.0
_BASE_S, _CAP_S = 0.2, 5.0
_NETWORK = (aiohttp.ClientError, OSError, TimeoutError)
_Answer = TypeVar("_Answer", bound=Message)


class Refused(Exception):
    """What the broker said: the cause of the error that is raised."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


def refusal_of(error: BaseException) -> Refusal | None:
    """The broker's own words behind an error of `BrokerClient`; None: it did not come from the broker."""
    return error.__cause__.refusal if isinstance(error.__cause__, Refused) else None


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where it is, and how we show who we are."""

    url: str
    """https://prestage-broker.NAMESPACE.svc:8443"""
    token: Path
    """A service account's token with the broker's audience."""
    ca: Path
    """The broker's authorities."""
    deadline_s: float = 30.0
    """Of one question, asking again included."""


class BrokerClient:
    """Open it with `async with`. One for a process: connections are shared."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._context: tuple[bytes, ssl.SSLContext] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None
            await asyncio.sleep(0)

    async def resolve(self, request: ResolveRequest, *, deadline_s: float | None = None) -> Resolved:
        """Planner: what a template names, resolved and recorded. May take as long as the origin does."""
        return await self._ask("/v1/resolve", request, Resolved, deadline_s)

    async def records(self, request: RecordsRequest, *, deadline_s: float | None = None) -> RecordsAnswer:
        """Planner: owners of recorded templates that are nowhere any more."""
        return await self._ask("/v1/records", request, RecordsAnswer, deadline_s)

    async def manifest(self, artifact: str, *, deadline_s: float | None = None) -> ManifestAnswer:
        """Node: canonical JSON, to be checked against the artifact's name."""
        return await self._ask("/v1/manifest", ManifestRequest(artifact=artifact), ManifestAnswer, deadline_s)

    async def fetches(self, request: FetchesRequest, *, deadline_s: float | None = None) -> FetchesAnswer:
        """Node: how to get files."""
        return await self._ask("/v1/fetches", request, FetchesAnswer, deadline_s)

    async def image(self, request: ImageRequest, *, deadline_s: float | None = None) -> ImageAnswer:
        """Node: how to pull an image."""
        return await self._ask("/v1/image", request, ImageAnswer, deadline_s)

    async def mounts(self, request: MountsRequest, *, deadline_s: float | None = None) -> MountsAnswer:
        """Node: may this pod mount these?"""
        return await self._ask("/v1/mounts", request, MountsAnswer, deadline_s)

    async def _ask(self, path: str, request: Message, answer: type[_Answer], deadline_s: float | None) -> _Answer:
        """The first answer within the deadline.

        Raises:
            PrestageError: of the class that the Refusal names; Unavailable where nobody answered; Misconfigured without token
                or authority.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + (self._settings.deadline_s if deadline_s is None else deadline_s)
        body = msgspec.json.encode(request)
        failures = 0
        while True:
            asked_s: float | None = None
            try:
                status, said = await self._once(path, body, max(0.1, ends_s - loop.time()))
                if status == 200:
                    return _read(said, answer)
                error, asked_s, is_passing = _error_of(status, said)
            except _NETWORK as exc:
                error = Unavailable(f"the broker does not answer: {_cause(exc)}", hint="is prestage-broker running?")
                error.__cause__, is_passing = exc, not isinstance(exc, aiohttp.ClientConnectorCertificateError)
            failures += 1
            jitter_s = random.random() * min(_CAP_S, _BASE_S * 2.0 ** min(failures, 20))  # noqa: S311  no secret
            delay_s = jitter_s if asked_s is None else asked_s + jitter_s
            if not is_passing or loop.time() + delay_s >= ends_s:
                raise error
            await asyncio.sleep(delay_s)

    async def _once(self, path: str, body: bytes, left_s: float) -> tuple[int, bytes]:
        token, context = await asyncio.to_thread(self._credentials)
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=left_s, sock_connect=_CONNECT_S)
        url = self._settings.url.rstrip("/") + path
        async with self._session.post(
            url, data=body, headers=headers, ssl=context, timeout=timeout, allow_redirects=False
        ) as response:
            said = bytearray()
            async for chunk in response.content.iter_any():
                said += chunk
                if len(said) > _ANSWER_BYTES_MAX:
                    raise aiohttp.ClientPayloadError(f"an answer of more than {_ANSWER_BYTES_MAX} bytes")
            return response.status, bytes(said)

    def _credentials(self) -> tuple[str, ssl.SSLContext]:
        """As the files are now. In a thread."""
        try:
            token = self._settings.token.read_text().strip()
            authorities = self._settings.ca.read_bytes()
        except (OSError, UnicodeDecodeError) as exc:
            where = getattr(exc, "filename", None) or self._settings.token
            raise Misconfigured(
                f"{where} cannot be read", hint="the token and the broker's authority are files of the pod"
            ) from exc
        if not token.isascii() or not token.isprintable():
            raise Misconfigured(f"{self._settings.token} holds no token", hint="mount a projected service account token")
        if self._context is None or self._context[0] != authorities:
            try:
                made = ssl.create_default_context(cadata=authorities.decode())
            except (ssl.SSLError, UnicodeDecodeError) as exc:
                hint = "the ConfigMap prestage-broker-ca is written by the broker"
                raise Misconfigured(f"{self._settings.ca} holds no certificates", hint=hint) from exc
            self._context = (authorities, made)
        return token, self._context[1]


def _read(said: bytes, answer: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(said, type=answer)
    except msgspec.DecodeError as exc:
        raise Unavailable(
            f"the broker's answer cannot be read: {exc}", hint="do broker and node differ by more than one version?"
        ) from exc


def _error_of(status: int, said: bytes) -> tuple[PrestageError, float | None, bool]:
    """The error, the wait that was asked for, and whether the same question may be answered soon."""
    try:
        refusal = msgspec.json.decode(said, type=Refusal)
    except msgspec.DecodeError:
        is_passing = status == 429 or status >= 500
        return Unavailable(f"the broker answered {status} without a reason", hint="see its log"), None, is_passing
    error = ERRORS[refusal.error_class](refusal.message, hint=refusal.hint)
    error.__cause__ = Refused(refusal)
    return error, refusal.retry_after_s, refusal.error_class is ErrorClass.UNAVAILABLE


def _cause(exc: BaseException) -> str:
    return "no answer in time" if isinstance(exc, TimeoutError) else (str(exc) or type(exc).__name__)
