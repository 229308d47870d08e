"""http(s)://: one file of a plain web server.

    resolve   HEAD, and where that is refused or tells too little, GET of bytes 0-0; redirects are followed
    request   GET at the final URL, with If-Match where there is a strong ETag
    refused   401 403 404 410 of a URL that a redirect led to: asked for again at the start, three times at most

A weak ETag (W/…) is kept to compare answers, never sent as If-Match, which demands a strong one (RFC 9110, 13.1.1). A
password comes from netrc (NETRC or ~/.netrc) and stays with the host that it was written for. The ref's query is sent, never
stored or printed. `#sha256=` becomes the file's digest.
"""

from __future__ import annotations

import netrc
import re
import time
import urllib.parse
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.net.head import content_range
from prestage.cacher.net.ports import HttpRequest, Reply, ResponseHead
from prestage.cacher.origins.answers import common_verdict, said
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.locations import Location, Locations, good_for_s, lifetime_s
from prestage.cacher.origins.ports import Next, Selection, Verdict
from prestage.cacher.refs import HttpRef

_IDENTITY = {"Accept-Encoding": "identity"}
LOOKUP_BUDGET_S = 20.0
"""For lookups that a transfer's thread waits for; its own retry rules come on top."""
_UNSIZED = ("the server does not say how long it is", "serve it as a static file, without compression")


class HttpOrigin:
    """See `origins.ports.Origin`."""

    def __init__(self, ref: HttpRef, asker: Asker, environ: Mapping[str, str]) -> None:
        self._ref = ref
        self._asker = asker
        folder, _, last = ref.path.rpartition("/")
        self._base = f"{folder}/"
        self._name = urllib.parse.unquote(last)
        self._login, self._login_from = _netrc_login(ref.host, environ)
        self._locations = Locations()
        if not self._name:
            raise Misconfigured(f"{ref.name} names a folder, not a file", hint="a plain web server has no listing: name one file")

    def resolve(self, selection: Selection) -> Manifest:
        """Ask for size and validators; see `origins.ports.Origin.resolve`."""
        authority = f"{self._ref.scheme}://{self._ref.host}"
        if not selection.allows(self._name):
            return manifest_of(authority, self._base, [])
        reply, size_bytes = self._look(self._asker)
        self._locations.put(self._name, self._location(reply))
        return manifest_of(authority, self._base, [self._entry(reply.head, size_bytes)])

    def request(self, manifest: Manifest, file: FileEntry) -> HttpRequest:
        """GET at the final URL; see `origins.ports.Origin.request`."""
        asker = self._asker.within(LOOKUP_BUDGET_S)
        location = self._locations.get(file.path, lambda: self._location(self._look(asker)[0]))
        return HttpRequest(location.url, {**location.headers, **conditions(file)})

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        """See `origins.ports.Origin.judge`."""
        verdict = common_verdict(self._ref.name, head, body, time.time())
        if verdict is not None:
            return verdict
        if head.status in (401, 403, 404, 410) and self._is_redirected(file.path) and not self._locations.refused(file.path):
            return Verdict(Next.REFRESH, f"{self._ref.name}: {head.status} where it redirects to")
        error = self._refusal(head, body)
        return Verdict(Next.FATAL, error.message, error=error)

    def refresh(self, file: FileEntry) -> None:
        """Follow the redirects anew."""
        self._locations.drop(file.path)

    def _is_redirected(self, path: str) -> bool:
        last = self._locations.last(path)
        return last is not None and last.url != self._ref.url

    def _look(self, asker: Asker) -> tuple[Reply, int]:
        """The final answer's head and the file's size."""
        reply = asker.glance(lambda: self._first("HEAD"), self._ref.name)
        stated = _whole_size(reply.head) if reply.head.status in (200, 204) else None
        if stated:
            return reply, stated
        # Refused (405, or 403 by a signature that is for GET only), silent about the size, or a 0 that many frameworks invent.
        ranged = asker.glance(lambda: self._first("GET", {"Range": "bytes=0-0"}), self._ref.name)
        if ranged.head.status == 416 and ranged.head.headers.get("content-range", "").strip() == "bytes */0":
            return (reply if stated == 0 else ranged), 0
        if ranged.head.status not in (200, 206):
            raise self._refusal(ranged.head, ranged.body)
        found = _ranged_size(ranged.head) if ranged.head.status == 206 else _whole_size(ranged.head)
        if found is None:
            raise Misconfigured(f"{self._ref.name}: {_UNSIZED[0]}", hint=_UNSIZED[1])
        return ranged, found

    def _first(self, method: str, headers: Mapping[str, str] | None = None) -> HttpRequest:
        return HttpRequest(self._ref.url, {**_IDENTITY, **self._login, **(headers or {})}, method)

    def _location(self, reply: Reply) -> Location:
        own = urllib.parse.urlsplit(self._ref.url)
        final = urllib.parse.urlsplit(reply.url)
        login = self._login if (own.scheme, own.netloc) == (final.scheme, final.netloc) else {}
        lifetime = lifetime_s(reply.url, time.time()) if reply.url != self._ref.url else None
        now = time.monotonic()
        return Location(reply.url, login, float("inf") if lifetime is None else now + good_for_s(lifetime), now)

    def _entry(self, head: ResponseHead, size_bytes: int) -> FileEntry:
        etag = head.headers.get("etag") or None
        return FileEntry(
            self._name, size_bytes, digest=self._ref.sha256, etag=etag, modified=head.headers.get("last-modified") or None
        )

    def _refusal(self, head: ResponseHead, body: bytes) -> PrestageError:
        name, text = self._ref.name, said(head, body)
        tail = f" ({text})" if text else ""
        if head.status in (404, 410):
            return NotFound(f"{name} does not exist ({head.status}){tail}", hint="check the URL")
        if head.status in (401, 403, 407, 451):
            hint = "put a login for this host into ~/.netrc, or use a URL that is signed"
            return Denied(f"{name}: refused with {head.status}, {self._login_from}{tail}", hint=hint)
        if head.status in (400, 405, 406, 414, 501):
            return Misconfigured(
                f"{name}: the server does not serve it to a plain GET ({head.status}){tail}", hint="check the URL"
            )
        return Unavailable(f"{name}: the server answered {head.status}{tail}", hint="run the same command again later")


def conditions(file: FileEntry) -> dict[str, str]:
    """The header that makes a server refuse another version of `file`; none without a strong ETag. If-Unmodified-Since is
    not sent: servers that compare fractions of a second with it refuse what did not change (versitygw, aiohttp). The engine
    compares Last-Modified itself."""
    return {"If-Match": file.etag} if file.etag and is_strong(file.etag) else {}


def is_strong(etag: str) -> bool:
    """True for `"…"`: the only form that If-Match compares as equal."""
    return re.fullmatch(r'"[^"\x00-\x1f]*"', etag) is not None


def _whole_size(head: ResponseHead) -> int | None:
    if head.headers.get("content-encoding", "identity") not in ("identity", ""):
        return None
    stated = head.headers.get("content-length", "")
    return int(stated) if re.fullmatch(r"[0-9]{1,16}", stated) else None


def _ranged_size(head: ResponseHead) -> int | None:
    if head.headers.get("content-encoding", "identity") not in ("identity", ""):
        return None
    span = content_range(head.headers.get("content-range", ""))
    return span[2] if span is not None else None


def _netrc_login(host: str, environ: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The Authorization header for `host` and where it came from."""
    named = environ.get("NETRC")
    path = Path(named) if named else Path(environ.get("HOME") or "/nonexistent") / ".netrc"
    if not path.is_file():
        if named:
            raise Misconfigured(f"the netrc file {named!r} (NETRC) does not exist", hint="unset NETRC or write the file")
        return {}, "without a login"
    hostname = urllib.parse.urlsplit(f"//{host}").hostname or host
    try:
        found = netrc.netrc(str(path)).authenticators(hostname)
    except netrc.NetrcParseError as exc:
        # Its message may quote a password.
        raise Misconfigured(f"the netrc file {str(path)!r} is wrong at line {exc.lineno}", hint="repair that line") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"the netrc file {str(path)!r} cannot be read", hint="check its mode and encoding") from exc
    if found is None:
        return {}, f"without a login ({path} has none for {hostname})"
    pair = f"{found[0]}:{found[2] or ''}".encode()
    return {"Authorization": f"Basic {b64encode(pair).decode()}"}, f"with the login from {path}"
