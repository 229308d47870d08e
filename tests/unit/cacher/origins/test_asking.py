"""Metadata calls: sent until they are answered or the rules say no."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from prestage.cacher.errors import Misconfigured, Unavailable
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.policy import ANYWHERE, AddressPolicy
from prestage.cacher.net.ports import HttpRequest, Reply, ResponseHead
from prestage.cacher.origins.asking import AskedToWait, Asker
from prestage.cacher.origins.retry import RetryRules

OK = ResponseHead(200, {})


@dataclass
class CannedBody:
    """A body of bytes."""

    head: ResponseHead
    data: bytes = b""
    length: int | None = None
    closed: bool = False

    def readinto(self, buffer: memoryview) -> int:
        part = self.data[: len(buffer)]
        buffer[: len(part)] = part
        self.data = self.data[len(part) :]
        return len(part)

    def read_some(self, buffer: memoryview) -> int:
        return self.readinto(buffer)

    def abort(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True


@dataclass
class CannedClient:
    """Answers what it was told, in order."""

    answers: list[ResponseHead | NetError]
    body: bytes = b""
    sent: list[HttpRequest] = field(default_factory=list)
    bodies: list[CannedBody] = field(default_factory=list)

    policy: AddressPolicy = ANYWHERE

    def open(self, request: HttpRequest, leaving: threading.Event | None = None) -> CannedBody:
        self.sent.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, NetError):
            raise answer
        self.bodies.append(CannedBody(answer, self.body))
        return self.bodies[-1]

    def fetch(
        self,
        request: HttpRequest,
        *,
        limit_bytes: int = 0,
        redirects: int = 5,
        timeout_s: float = 60,
        leaving: threading.Event | None = None,
    ) -> Reply:
        assert timeout_s <= 60
        return Reply(self.open(request).head, self.body, request.url)


def asker(answers: Sequence[ResponseHead | NetError], body: bytes = b"") -> tuple[Asker, CannedClient, list[float]]:
    client, slept = CannedClient(list(answers), body), list[float]()
    return Asker(client, RetryRules(), slept.append), client, slept


def fresh() -> HttpRequest:
    return HttpRequest("https://h/a")


def test_what_passes_is_asked_again_until_it_is_answered() -> None:
    ask, client, slept = asker([NetError("reset", "x"), ResponseHead(503, {}), ResponseHead(429, {"retry-after": "2"}), OK])
    assert ask.read(fresh, "it").head.status == 200
    assert len(client.sent) == 4
    assert slept[2] >= 2


def test_every_attempt_is_a_request_made_anew() -> None:
    ask, client, _ = asker([ResponseHead(500, {}), OK])
    numbers = iter(range(9))
    ask.read(lambda: HttpRequest(f"https://h/{next(numbers)}"), "it")
    assert [request.url for request in client.sent] == ["https://h/0", "https://h/1"]


def test_an_answer_that_does_not_pass_is_handed_back() -> None:
    ask, client, slept = asker([ResponseHead(403, {})], b"<Code>AccessDenied</Code>")
    reply = ask.glance(fresh, "it")
    assert (reply.head.status, reply.body) == (403, b"<Code>AccessDenied</Code>")
    assert (len(client.sent), slept) == (1, [])


def test_a_wait_beyond_the_budget_is_told_with_its_length() -> None:
    ask, _, slept = asker([ResponseHead(429, {"ratelimit": '"api";r=0;t=300', "x-error-message": "slow"})])
    with pytest.raises(AskedToWait, match=r"it: .*429.*300 s.*slow") as told:
        ask.read(fresh, "it")
    assert (told.value.after_s, slept) == (300, [])


def test_what_cannot_succeed_from_here_is_a_mistake_of_configuration() -> None:
    ask, client, _ = asker([NetError("tls", "certificate not trusted", retryable=False)])
    with pytest.raises(Misconfigured, match="certificate"):
        ask.read(fresh, "it")
    assert len(client.sent) == 1


def test_nobody_there_ends_in_unavailable_with_the_cause() -> None:
    ask = Asker(CannedClient([NetError("refused", "h port 1")] * 3), RetryRules(unreachable_s=0, budget_s=60), lambda s: None)
    with pytest.raises(Unavailable, match="refused: h port 1"):
        ask.within(0).read(fresh, "it")


def test_a_glance_follows_redirects_without_credentials_for_others_and_reads_no_body() -> None:
    ask, client, _ = asker([ResponseHead(302, {"location": "https://other/b"}), OK], b"x" * 10_000)
    request = HttpRequest("https://h/a", {"Authorization": "Basic secret", "Range": "bytes=0-0"})
    reply = ask.glance(lambda: request, "it")
    assert (reply.url, reply.body) == ("https://other/b", b"")
    assert client.sent[1].headers == {"Range": "bytes=0-0"}
    assert all(body.closed for body in client.bodies)


def test_a_glance_stops_where_it_is_told_to() -> None:
    ask, client, _ = asker([ResponseHead(302, {"location": "https://other/b"})])
    reply = ask.glance(fresh, "it", follow=lambda _, to: not to.url.startswith("https://other"))
    assert (reply.head.status, reply.url, len(client.sent)) == (302, "https://h/a", 1)


def test_a_redirect_loop_ends() -> None:
    ask, client, _ = asker([ResponseHead(302, {"location": "/a"})] * 50)
    with pytest.raises(Misconfigured, match="loop"):
        ask.glance(fresh, "it")
    assert len(client.sent) <= 11


def test_going_from_https_to_http_is_refused() -> None:
    ask, _, _ = asker([ResponseHead(302, {"location": "http://h/a"})])
    with pytest.raises(Misconfigured, match="refused"):
        ask.glance(fresh, "it")
