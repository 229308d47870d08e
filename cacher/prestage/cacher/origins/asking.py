"""Metadata calls: small requests sent until they are answered or the retry rules say no.

Any answer that does not pass by itself is handed back: what a 403 means is the origin's to say. It sleeps between attempts,
in the caller's thread, and never longer than its budget.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from prestage.cacher.errors import Denied, Misconfigured, Unavailable
from prestage.cacher.net.client import redirected
from prestage.cacher.net.errors import AddressRefused, NetError
from prestage.cacher.net.ports import Body, Client, HttpRequest, Reply, ResponseHead
from prestage.cacher.origins.answers import REDIRECTS, OurFault, said
from prestage.cacher.origins.retry import GiveUp, RetryRules, after_failure, is_transient
from prestage.cacher.transfer.ports import Cancelled

_GLANCE_BYTES = 4096
_MIN_TIMEOUT_S = 1.0
Follow = Callable[[HttpRequest, HttpRequest], bool]
"""(from, to) -> go there? Where not, the redirect itself is the answer."""


class AskedToWait(Unavailable):
    """The server says how long to stay away, which is longer than the budget of this call."""

    def __init__(self, message: str, *, hint: str, after_s: float) -> None:
        super().__init__(message, hint=hint)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Asker:
    """Sends metadata calls through one client. Thread-safe."""

    client: Client
    rules: RetryRules = field(default_factory=RetryRules)
    sleep: Callable[[float], object] | None = None
    """In place of waiting for `cancel`; for tests."""
    cancel: threading.Event = field(default_factory=threading.Event)
    """Set from any thread: every call ends within 0.1 s."""

    def within(self, budget_s: float) -> Asker:
        """The same with a smaller budget: for calls that a transfer waits for."""
        return replace(self, rules=replace(self.rules, budget_s=min(budget_s, self.rules.budget_s)))

    def read(self, make: Callable[[], HttpRequest], subject: str) -> Reply:
        """A small answer, read whole, redirects followed. `make` is called for every attempt: signatures age.

        Raises:
            Unavailable, Misconfigured, Denied, Cancelled: as `glance`.
        """

        def send(left_s: float) -> Reply:
            return self.client.fetch(make(), timeout_s=max(_MIN_TIMEOUT_S, left_s), leaving=self.cancel)

        return self._until_answered(send, subject)

    def glance(self, make: Callable[[], HttpRequest], subject: str, *, follow: Follow | None = None) -> Reply:
        """The head of an answer, and of its body at most 4 KiB when it is an error. For HEAD and for one-byte ranges: the
        rest of a body that is longer than was asked stays unread.

        Raises:
            Unavailable: nobody answered within the budget, or with nothing but what passes.
            Misconfigured: the request cannot succeed from here (a certificate that is not trusted, a redirect loop).
            Denied: the client's policy forbids the address, or the one that a redirect leads to.
            Cancelled: `cancel` was set.
        """
        return self._until_answered(lambda left_s: self._glance(make(), follow), subject)

    def _glance(self, request: HttpRequest, follow: Follow | None) -> Reply:
        for _ in range(10):
            body = self.client.open(request, self.cancel)
            try:
                head = body.head
                location = head.headers.get("location")
                if head.status not in REDIRECTS or not location:
                    return Reply(head, _first_bytes(body) if head.status >= 400 else b"", request.url)
            finally:
                body.close()
            onward = redirected(request, location)
            if follow is not None and not follow(request, onward):
                return Reply(head, b"", request.url)
            request = onward
        raise NetError("redirects", "too many redirects: a loop?", retryable=False)

    def _until_answered(self, send: Callable[[float], Reply], subject: str) -> Reply:
        began = time.monotonic()
        failures = 0
        while True:
            left_s = self.rules.budget_s - (time.monotonic() - began)
            failure: NetError | ResponseHead
            text = ""
            try:
                reply = send(left_s)
                if not is_transient(reply.head):
                    return reply
                failure, text = reply.head, said(reply.head, reply.body)
            except NetError as exc:
                if self.cancel.is_set():
                    raise Cancelled from exc
                failure = exc
            failures += 1
            step = after_failure(
                failure,
                failures=failures,
                elapsed_s=time.monotonic() - began,
                now_s=time.time(),
                draw=random.random(),  # noqa: S311 - jitter, not a secret
                rules=self.rules,
            )
            if isinstance(step, GiveUp):
                raise _given_up(subject, failure, text, step, failures=failures) from (
                    failure if isinstance(failure, NetError) else None
                )
            (self.sleep or self.cancel.wait)(step.seconds)
            if self.cancel.is_set():
                raise Cancelled


def _first_bytes(body: Body) -> bytes:
    buffer = memoryview(bytearray(_GLANCE_BYTES))
    try:
        count = body.readinto(buffer)
    except NetError:
        # The status says what happened; its explanation is only a courtesy.
        return b""
    return bytes(buffer[:count])


def _given_up(
    subject: str, failure: NetError | ResponseHead, text: str, step: GiveUp, *, failures: int
) -> Unavailable | Misconfigured | Denied:
    if isinstance(failure, AddressRefused):
        return refused(subject, failure)
    if isinstance(failure, NetError):
        if not failure.retryable:
            return Misconfigured(f"{subject}: {failure}", hint="check the endpoint, the proxy and the CA bundle")
        times = f" ({failures} attempts)" if failures > 1 else ""
        return Unavailable(f"{subject}: {failure}{times}", hint="check the name and the network, then run the same command again")
    shown = f" ({text})" if text else ""
    if step.asked_s is not None:
        return AskedToWait(
            f"{subject}: the server answered {failure.status} and asks to wait {step.asked_s:.0f} s{shown}",
            hint="wait that long and run the same command again, or use a credential with a higher limit",
            after_s=step.asked_s,
        )
    return Unavailable(
        f"{subject}: the server answered {failure.status} to {failures} attempts{shown}", hint="run the same command again later"
    )


def refused(subject: str, exc: AddressRefused) -> Denied:
    """What the policy's no means to the caller."""
    return OurFault(f"{subject}: {exc.detail}", hint=exc.hint)
