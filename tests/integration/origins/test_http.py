"""http(s):// against nginx, and against a server that is wrong on demand: HEAD refused, sizes unsaid, links that expire."""

from __future__ import annotations

import hashlib
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from offers import WEIGHTS, Offer, Reader, reader

from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import parse_ref
from prestage.cacher.transfer.ports import Cancelled, Changed, Fatal, Retry
from servers.answers import Answer, Request, Served
from servers.certs import Authority
from servers.faults import ETag, Fault, Redirect, Stall, Status, chunked, gzipped, ignores_range
from servers.hostile import Hostile
from servers.nginx import Nginx


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile({"/d/f.bin": WEIGHTS, "/d/empty": b""}) as running:
        yield running


def at_url(client: HttpClient, url: str, environ: Mapping[str, str] | None = None) -> Reader:
    return reader(Offer(url, {}, lambda path, content: None, url, environ or {}), client)


def refused(client: HttpClient, url: str, environ: Mapping[str, str] | None = None) -> PrestageError:
    with pytest.raises(PrestageError) as error:
        at_url(client, url, environ)
    assert "\n" not in str(error.value)
    assert error.value.hint
    return error.value


def on_head(fault: Fault) -> object:
    return lambda request: fault if request.method == "HEAD" else None


def no_length(request: Request, answer: Answer) -> Answer:
    return answer.with_header("Content-Length", None)


def zero_length(request: Request, answer: Answer) -> Answer:
    return answer.with_header("Content-Length", "0")


HEADS: dict[str, Fault] = {
    "not allowed": Status(405),
    "forbidden": Status(403),
    "not implemented": Status(501),
    "not found": Status(404),
    "without a length": no_length,
    "with a length of 0": zero_length,
    "compressed": gzipped,
}


@pytest.mark.parametrize("case", HEADS)
def test_where_head_does_not_help_one_byte_is_asked_for(case: str, server: Hostile, client: HttpClient) -> None:
    server.choose = lambda request: HEADS[case] if request.method == "HEAD" else None
    at = at_url(client, server.url("/d/f.bin"))
    assert [(file.path, file.size_bytes) for file in at.manifest.files] == [("f.bin", len(WEIGHTS))]
    assert at.read(at.manifest.files[0], 5, 500) == WEIGHTS[5:500]
    assert server.sent_bytes < 10_000


def test_a_server_without_ranges_and_head_is_asked_without_taking_its_file(server: Hostile, client: HttpClient) -> None:
    server.choose = lambda request: Status(405) if request.method == "HEAD" else ignores_range
    assert at_url(client, server.url("/d/f.bin")).manifest.files[0].size_bytes == len(WEIGHTS)


def test_a_size_that_is_never_said_is_a_mistake_of_the_server(server: Hostile, client: HttpClient) -> None:
    def unsized(request: Request, answer: Answer) -> Answer:
        return chunked(request, replace(answer.with_header("Content-Range", None), status=200))

    server.choose = lambda request: no_length if request.method == "HEAD" else unsized
    assert isinstance(refused(client, server.url("/d/f.bin")), Misconfigured)


def test_an_empty_file_is_a_file(server: Hostile, client: HttpClient) -> None:
    (file,) = at_url(client, server.url("/d/empty")).manifest.files
    assert (file.size_bytes, file.etag) == (0, '"generation-2"')


def test_a_stated_digest_and_the_validators_enter_the_manifest(server: Hostile, client: HttpClient) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    manifest = at_url(client, f"{server.url('/d/f.bin')}#sha256={digest}").manifest
    assert manifest.authority == server.url("")
    assert manifest.base == "/d/"
    assert manifest.files == (
        FileEntry(
            "f.bin",
            len(WEIGHTS),
            digest=f"sha256:{digest}",  # type: ignore[arg-type]  # Digest is text here
            etag='"generation-1"',
            modified="Thu, 01 Jan 2026 00:00:00 GMT",
        ),
    )


def sent(at: Reader) -> HttpRequest:
    request = at.origin.request(at.manifest, at.manifest.files[0])
    assert isinstance(request, HttpRequest)
    return request


def test_a_strong_etag_is_sent_and_a_weak_one_is_only_compared(server: Hostile, client: HttpClient) -> None:
    assert sent(at_url(client, server.url("/d/f.bin"))).headers["If-Match"] == '"generation-1"'
    server.put("/d/weak.bin", Served(WEIGHTS, 'W/"weak"'))
    at = at_url(client, server.url("/d/weak.bin"))
    assert at.manifest.files[0].etag == 'W/"weak"'
    assert "If-Match" not in sent(at).headers
    assert at.read(at.manifest.files[0], 0, 9) == WEIGHTS[:9]
    server.always.append(ETag('W/"other"'))
    with pytest.raises(Changed):
        at.read(at.manifest.files[0], 0, 9)


def test_without_an_etag_the_date_is_compared(server: Hostile, client: HttpClient) -> None:
    server.put("/d/old.bin", Served(WEIGHTS, None))
    at = at_url(client, server.url("/d/old.bin"))
    assert at.read(at.manifest.files[0], 0, 9) == WEIGHTS[:9]
    server.put("/d/old.bin", Served(WEIGHTS, None, "Fri, 02 Jan 2026 00:00:00 GMT"))
    with pytest.raises(Changed, match="Last-Modified"):
        at.read(at.manifest.files[0], 0, 9)


def test_a_file_pinned_by_nothing_says_so(server: Hostile, client: HttpClient) -> None:
    server.put("/d/bare.bin", Served(WEIGHTS, None, None))
    assert at_url(client, server.url("/d/bare.bin")).manifest.is_weak


def test_names_come_out_of_their_encoding(server: Hostile, client: HttpClient) -> None:
    server.put("/d/a%20b%C3%A9.bin", WEIGHTS)
    assert at_url(client, server.url("/d/a%20b%C3%A9.bin")).manifest.files[0].path == "a b\u00e9.bin"
    server.put("/d/%2e%2e", WEIGHTS)
    assert "file name" in str(refused(client, server.url("/d/%2e%2e")))
    assert "folder" in str(refused(client, server.url("/d/")))


class Mirror:
    """A server whose links lead to `target` by a signature that a counter makes stale."""

    def __init__(self, front: Hostile, target: Hostile) -> None:
        self.target, self.valid, self.issued = target, 0, 0
        front.choose = self.lead
        target.choose = self.admit

    def lead(self, request: Request) -> Fault:
        self.issued += 1
        return Redirect(self.target.url(f"/d/f.bin?sig={self.issued}"))

    def admit(self, request: Request) -> Fault | None:
        signature = int(request.target.partition("sig=")[2])
        return Status(403, body=b"<Error><Code>AccessDenied</Code></Error>") if signature < self.valid else None


@pytest.fixture
def mirror(server: Hostile) -> Iterator[tuple[Mirror, str]]:
    with Hostile() as front:
        yield Mirror(front, server), front.url("/latest/f.bin")


def test_the_end_of_a_redirect_is_looked_up_once(mirror: tuple[Mirror, str], client: HttpClient) -> None:
    links, url = mirror
    at = at_url(client, url)
    for start in range(0, 50, 10):
        assert at.read(at.manifest.files[0], start, start + 10) == WEIGHTS[start : start + 10]
    assert links.issued == 1
    assert at.manifest.authority in url
    assert "sig=" not in at.manifest.to_bytes().decode()


def test_a_link_that_expired_is_looked_up_again(mirror: tuple[Mirror, str], client: HttpClient) -> None:
    links, url = mirror
    at = at_url(client, url)
    links.valid = 2
    with pytest.raises(Retry, match="403"):
        at.read(at.manifest.files[0], 0, 10)
    assert at.read(at.manifest.files[0], 0, 10) == WEIGHTS[:10]
    assert links.issued == 2


def test_links_that_are_refused_however_fresh_end_the_transfer(mirror: tuple[Mirror, str], client: HttpClient) -> None:
    links, url = mirror
    at = at_url(client, url)
    links.valid = 10**6
    links.target.choose = lambda request: Status(403) if request.method == "GET" else None
    for _ in range(2):
        with pytest.raises(Retry):
            at.read(at.manifest.files[0], 0, 10)
    with pytest.raises(Fatal) as ended:
        at.read(at.manifest.files[0], 0, 10)
    assert isinstance(ended.value.error, Denied)


def test_a_login_from_netrc_is_sent_to_its_host_and_not_to_where_it_redirects(
    server: Hostile, client: HttpClient, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cret\n")
    expected = f"Basic {b64encode(b'me:s3cret').decode()}"

    def guard(request: Request) -> Fault | None:
        return None if request.headers.get("authorization") == expected else Status(401)

    server.choose = guard
    url = server.url("/d/f.bin")
    at = at_url(client, url, {"NETRC": str(netrc)})
    assert at.read(at.manifest.files[0], 0, 10) == WEIGHTS[:10]
    error = refused(client, url)
    assert isinstance(error, Denied)
    assert "without a login" in str(error)
    netrc.write_text("machine 127.0.0.1 login me password wr0ng\n")
    error = refused(client, url, {"NETRC": str(netrc)})
    assert str(netrc) in str(error)
    assert "wr0ng" not in str(error)
    with Hostile({"/cdn": WEIGHTS}) as other:
        server.choose = lambda request: Redirect(other.url("/cdn"))
        away = at_url(client, url, {"NETRC": str(netrc)})
        assert away.read(away.manifest.files[0], 0, 10) == WEIGHTS[:10]
        assert all("authorization" not in request.headers for request in other.requests)
        assert all("authorization" in request.headers for request in server.requests[-1:])


REFUSALS: dict[str, tuple[Fault, type[PrestageError], str]] = {
    "401": (Status(401), Denied, "netrc"),
    "403": (Status(403), Denied, "refused with 403"),
    "404": (Status(404), NotFound, "does not exist"),
    "410": (Status(410), NotFound, "410"),
    "451": (Status(451), Denied, "451"),
    "400": (Status(400), Misconfigured, "400"),
    "501": (Status(501), Misconfigured, "501"),
    "505": (Status(505), Unavailable, "505"),
    "a loop": (Redirect(), Misconfigured, "loop"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_each_refusal_has_its_class_and_says_what_to_try(case: str, server: Hostile, client: HttpClient) -> None:
    fault, kind, says = REFUSALS[case]
    server.choose = lambda request: fault
    error = refused(client, f"{server.url('/d/f.bin')}?token=s3cret")
    assert type(error) is kind
    assert says in str(error)
    assert "s3cret" not in str(error)


def test_what_passes_is_waited_for(server: Hostile, client: HttpClient) -> None:
    answers = iter([Status(503, "0"), Status(429, "0"), Status(502)])
    server.choose = lambda request: next(answers, None)
    assert at_url(client, server.url("/d/f.bin")).manifest.files[0].size_bytes == len(WEIGHTS)


def test_a_server_that_asks_to_wait_longer_than_we_do_is_left_with_its_number(server: Hostile, client: HttpClient) -> None:
    server.choose = lambda request: Status(429, "3600")
    error = refused(client, server.url("/d/f.bin"))
    assert isinstance(error, Unavailable)
    assert "3600 s" in str(error)


def test_a_file_that_vanishes_on_the_way_is_a_miss(server: Hostile, client: HttpClient) -> None:
    at = at_url(client, server.url("/d/f.bin"))
    server.choose = lambda request: Status(404)
    with pytest.raises(Fatal) as ended:
        at.read(at.manifest.files[0], 0, 10)
    assert isinstance(ended.value.error, NotFound)


def test_tls_wants_the_ca_that_signed(nginx: Nginx, authority: Authority, https_offer: Offer) -> None:
    stranger = HttpClient()
    try:
        error = refused(stranger, https_offer.ref)
    finally:
        stranger.close()
    assert isinstance(error, Misconfigured)
    assert "PRESTAGE_CA_BUNDLE" in str(error)
    trusting = https_offer.client()
    try:
        assert reader(https_offer, trusting, Selection()).manifest.files[0].size_bytes == len(WEIGHTS)
    finally:
        trusting.close()


def test_a_resolve_that_is_cancelled_ends_though_the_server_is_silent() -> None:
    """The stage's own event ends its look-ups too: the client alone would wait for ten minutes."""
    patient, cancel, ended = HttpClient(NetConfig(idle_timeout_s=600, slow_timeout_s=600)), threading.Event(), threading.Event()
    with Hostile({"/f.bin": b"x"}) as server:
        server.choose = lambda request: Stall(after=-1)
        origin = open_origin(parse_ref(server.url("/f.bin")), client=patient, environ={"HOME": "/none"}, cancel=cancel)

        def resolve() -> None:
            with pytest.raises(Cancelled):
                origin.resolve(Selection())
            ended.set()

        thread = threading.Thread(target=resolve)
        thread.start()
        while not server.requests:
            time.sleep(0.01)
        cancel.set()
        assert ended.wait(20)
        thread.join()
    patient.close()
