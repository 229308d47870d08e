"""One repository of a registry, by the OCI distribution specification: documents, and what gets its blobs. Blocks; thread-safe.

    documents   GET /v2/<repository>/manifests/<tag or digest>, GET /v2/<repository>/blobs/<digest>; held against their digest
    way in      nothing, Basic, or a bearer token for pulling from this repository, as the registry asks; kept while it is good
    client      the house's: deadlines, retries, redirects without credentials, addresses that the policy allows

Passwords and tokens are never part of a message, nor are digests that the user did not write.
"""

from __future__ import annotations

import hashlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prestage.cacher.errors import Corrupt, Denied, NotFound, PrestageError, Unavailable
from prestage.cacher.net.ports import HttpRequest, Reply, ResponseHead
from prestage.cacher.origins.answers import said
from prestage.cacher.origins.asking import Asker
from prestage.images.challenges import choose as choose_challenge
from prestage.images.challenges import parse_challenges, parse_token, token_url
from prestage.images.descriptors import (
    ACCEPT,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Platform,
    choose,
    is_index,
    parse_image_manifest,
)
from prestage.images.image import Image, assemble
from prestage.images.logins import Login
from prestage.images.names import ImageName, OciDigest

TOKEN_MARGIN_S = 10.0
"""A token is asked for anew so long before it expires."""
ANSWERS_MOST = 2
"""To the 401s that one question gets: what we showed may have ended. A new token anybody gets, even where it opens nothing."""
_IDENTITY = {"Accept-Encoding": "identity"}
_Ask = Callable[[Callable[[], HttpRequest], str], Reply]


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest, an index or a config, whole."""

    raw: bytes
    media_type: str
    digest: OciDigest


@dataclass(frozen=True, slots=True)
class _Permit:
    """An Authorization header and how long it is good (monotonic)."""

    header: str
    good_until: float


class Registry:
    """See the module. `plain_http`: default, only for a registry on loopback."""

    def __init__(self, name: ImageName, asker: Asker, login: Login | None = None, *, plain_http: bool | None = None) -> None:
        self.name, self.asker = name, asker
        self._login = login
        self._is_tls = not (name.is_loopback if plain_http is None else plain_http)
        scheme = "https" if self._is_tls else "http"
        self._base = f"{scheme}://{name.api_host}/v2/{name.repository}"
        self.authority = f"oci:{scheme}://{name.api_host}/{name.repository}"
        self._permit: _Permit | None = None
        self._lock = threading.Lock()

    def resolve(self, platform: Platform) -> Image:
        """What the image is made of, for one platform.

        Raises:
            NotFound, Denied, Corrupt, Misconfigured, Unavailable: one line, with what to try.
        """
        top = self._manifest(self.name.reference)
        roots: tuple[OciDigest, ...] = (top.digest,)
        if is_index(top.media_type, top.raw):
            top = self._manifest(choose(top.raw, platform).digest)
            roots = (*roots, top.digest)
            if is_index(top.media_type, top.raw):
                raise Corrupt(f"{self.name}: an index of indexes", hint="push the image again")
        manifest = parse_image_manifest(top.raw)
        return assemble(self.name, self.authority, roots, manifest, self._config(manifest.config))

    def look(self, digest: OciDigest, subject: str, asker: Asker | None = None) -> Reply:
        """The way to a blob: one byte of it, redirects followed. Blocks.

        Raises:
            PrestageError: as `refusal`, and as the asker says.
        """
        return self._answered((asker or self.asker).glance, f"blobs/{digest}", subject, {"Range": "bytes=0-0"})

    def owns(self, url: str) -> bool:
        """It is the registry's own, not where it redirects to: credentials may go there."""
        own, other = urllib.parse.urlsplit(self._base), urllib.parse.urlsplit(url)
        return (own.scheme, own.netloc) == (other.scheme, other.netloc)

    def authorization(self) -> dict[str, str]:
        """The header to send now: none until the registry has asked for one."""
        with self._lock:
            permit = self._permit
        return {"Authorization": permit.header} if permit and permit.good_until > time.monotonic() else {}

    def answer_to(self, request: HttpRequest, head: ResponseHead) -> bool:
        """The registry answered 401 to `request`: get what it asks for. False: it has had that already."""
        with self._lock:
            shown, now = request.headers.get("Authorization"), time.monotonic()
            if self._permit is not None and self._permit.good_until > now and self._permit.header != shown:
                return True  # another thread was faster
            permit = self._ask_for_permit(head.headers.get("www-authenticate", ""))
            is_new = permit is not None and permit.header != shown
            self._permit = permit
            return is_new

    def refusal(self, head: ResponseHead, body: bytes, subject: str) -> PrestageError:
        """What an answer that is no success means."""
        text = said(head, body)
        tail = f" ({text})" if text else ""
        who = f"with the login of {self._login.user!r}" if self._login else "without a login"
        if head.status in (401, 403):
            hint = "check the login, and whether it may pull this repository"
            return Denied(f"{self.name}: the registry refuses {subject} {who} ({head.status}){tail}", hint=hint)
        if head.status == 404:
            return NotFound(f"{self.name}: the registry has no {subject}{tail}", hint="check repository and tag")
        return Unavailable(f"{self.name}: the registry answered {head.status} for {subject}{tail}", hint="try again later")

    def _manifest(self, reference: str) -> Document:
        reply = self._answered(self.asker.read, f"manifests/{reference}", "such image", {"Accept": ACCEPT})
        if len(reply.body) > MAX_DOCUMENT_BYTES:
            raise Corrupt(f"{self.name}: a manifest of {len(reply.body)} bytes", hint="no manifest is so large")
        digest = _digest(reply.body)
        stated = reference if reference.startswith("sha256:") else reply.head.headers.get("docker-content-digest", digest)
        if stated.startswith("sha256:") and stated != digest:
            raise Corrupt(
                f"{self.name}: the registry's manifest is not what its digest says", hint="is there a proxy in between?"
            )
        return Document(reply.body, reply.head.headers.get("content-type", ""), digest)

    def _config(self, config: Descriptor) -> bytes:
        reply = self._answered(self.asker.read, f"blobs/{config.digest}", "config of the image", {})
        if _digest(reply.body) != config.digest:
            raise Corrupt(f"{self.name}: the image's config is not what its digest says", hint="push the image again")
        return reply.body

    def _answered(self, ask: _Ask, path: str, subject: str, headers: Mapping[str, str]) -> Reply:
        """A good answer, once the registry has got what it asks for."""
        for answers in range(ANSWERS_MOST + 1):
            request = HttpRequest(f"{self._base}/{path}", {**_IDENTITY, **self.authorization(), **headers})
            reply = ask(_always(request), str(self.name))
            if reply.head.status in (200, 206):
                return reply
            if reply.head.status != 401 or answers == ANSWERS_MOST or not self.answer_to(request, reply.head):
                break
        raise self.refusal(reply.head, reply.body, subject)

    def _ask_for_permit(self, header: str) -> _Permit | None:
        challenge = choose_challenge(parse_challenges(header))
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return _Permit(self._login.basic, float("inf")) if self._login else None
        url = token_url(challenge, self.name.repository, registry_is_tls=self._is_tls)
        headers = {**_IDENTITY, **({"Authorization": self._login.basic} if self._login else {})}
        reply = self.asker.read(lambda: HttpRequest(url, headers), f"the token server of {self.name.registry}")
        if reply.head.status != 200:
            raise self.refusal(reply.head, reply.body, "a token")
        token = parse_token(reply.body)
        return _Permit(f"Bearer {token.text}", time.monotonic() + max(1.0, token.life_s - TOKEN_MARGIN_S))


def _always(request: HttpRequest) -> Callable[[], HttpRequest]:
    """What an Asker sends at every attempt."""
    return lambda: request


def _digest(raw: bytes) -> OciDigest:
    return OciDigest(f"sha256:{hashlib.sha256(raw).hexdigest()}")
