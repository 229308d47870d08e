"""What is sent and what comes back; how it fails: errors.py. Blocking, thread-safe where said."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prestage.cacher.net.policy import AddressPolicy


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that is ready to send: signed, with every header but Host, Connection and Range's.

    `secret` says that `url` or `headers` carry a credential: neither is ever logged.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    connect_to: tuple[str, int] | None = None
    """Host and port to connect to instead of the URL's; Host header and TLS name stay those of the URL."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers; names in lower case, repeated headers joined by a comma and a space."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """A small answer, read whole, content coding undone."""

    head: ResponseHead
    body: bytes
    url: str
    """Where it came from, after redirects."""


class Body(Protocol):
    """A body on the wire. One thread uses it; closing early drops the connection, never blocks."""

    head: ResponseHead
    length: int | None
    """Content-Length, None when the server frames it otherwise (chunked, close)."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`, blocking until it is full or the body ends; 0 is the end. Before a failure it hands over what came.

        Raises:
            NetError: nothing came for the idle timeout, the connection broke, or it ended before `length`.
        """
        ...

    def read_some(self, buffer: memoryview) -> int:
        """At least one byte, as soon as it is there; 0 at the end. Raises as `readinto`."""
        ...

    def abort(self) -> None:
        """Make a blocked read fail now; from any thread."""
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it. Idempotent."""
        ...


class Client(Protocol):
    """Thread-safe; keeps idle connections. Goes only where its policy lets it."""

    @property
    def policy(self) -> AddressPolicy:
        """Which addresses it may connect to; the same for its whole life."""
        ...

    def open(self, request: HttpRequest, leaving: threading.Event | None = None) -> Body:
        """Send, read the head, leave the body on the wire. Follows no redirect, retries nothing.

        Set `leaving` from any thread to end it within 0.1 s, wherever it waits: name, connect, handshake, head. The body that
        comes of it is ended by its own `abort`.

        Raises:
            NetError: see `NetError.reason`; AddressRefused.
        """
        ...

    def fetch(
        self,
        request: HttpRequest,
        *,
        limit_bytes: int = 64 << 20,
        redirects: int = 5,
        timeout_s: float = 60,
        leaving: threading.Event | None = None,
    ) -> Reply:
        """Send and read a small answer whole. Follows `redirects` redirects, dropping Authorization and Cookie when the
        origin (scheme, host, port) changes. Retries nothing: retry rules belong to the caller. `leaving` ends it as in `open`.

        Raises:
            NetError: also for a body over `limit_bytes`, a redirect loop, or an answer not whole after `timeout_s`.
        """
        ...
