"""hf://org/name@revision: a model repository of a Hugging Face Hub.

    resolve   GET /api/models/<repo>/revision/<rev>       -> commit (not asked for a full commit)
              GET /api/models/<repo>/tree/<commit>        -> files, page by page; LFS: SHA-256, git: blob SHA-1, both checked
    request   HEAD /<repo>/resolve/<commit>/<path>        -> where the file is: on a CDN behind a signed URL that expires (LFS),
                                                             or on the hub itself; kept, and looked up again before it ends
    refused   by the CDN with 400 401 403 404 410         -> looked up again; three times young means refused for good

The token goes to the hub's own scheme, host and port and nowhere else. Nothing of the URL, of its signature or of the CDN's
ETag (which is not the content's) enters the manifest: two nodes name one commit alike.
"""

from __future__ import annotations

import email.utils
import re
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import MAX_FILES, FileEntry, Manifest, manifest_of
from prestage.cacher.net.ports import HttpRequest, Reply, ResponseHead
from prestage.cacher.origins.answers import REDIRECTS, common_verdict, said
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.http import LOOKUP_BUDGET_S
from prestage.cacher.origins.hub_answers import COMMIT, NotHub, Token, commit_of, next_link, refusal, tree_files
from prestage.cacher.origins.locations import Location, Locations, good_for_s, lifetime_s
from prestage.cacher.origins.ports import Next, Selection, Verdict
from prestage.cacher.origins.selection import select
from prestage.cacher.refs import HfRef

PUBLIC = "https://huggingface.co"
_JSON = {"Accept": "application/json", "Accept-Encoding": "gzip, identity"}
_IDENTITY = {"Accept-Encoding": "identity"}
_STALE = frozenset({400, 401, 403, 404, 410})
"""What CDNs and object stores say to a signed URL that has expired: 403 (S3, CloudFront), 400 (R2), 401, 404 and 410 (others)."""


class HubOrigin:
    """See `origins.ports.Origin`."""

    def __init__(self, ref: HfRef, asker: Asker, endpoint: str, token: Token) -> None:
        self._ref = ref
        self._asker = asker
        self._endpoint = endpoint
        self._token = token
        self._locations = Locations()

    def resolve(self, selection: Selection) -> Manifest:
        """Commit, then tree; see `origins.ports.Origin.resolve`."""
        commit = self._commit()
        files = self._tree(commit)
        authority = f"hf:{self._endpoint}/{self._ref.repo}"
        manifest = manifest_of(authority, "", select(files, selection), revision=commit)
        # A gated repository lists its files to everybody: whether they may be read shows at the first one.
        first = manifest.files[0].path
        self._locations.put(first, self._locate(self._asker, commit, first))
        return manifest

    def request(self, manifest: Manifest, file: FileEntry) -> HttpRequest:
        """GET where the file is; see `origins.ports.Origin.request`."""
        commit = manifest.revision
        if commit is None:
            raise Misconfigured(f"{self._ref.name} was resolved without a commit", hint="stage it again")
        asker = self._asker.within(LOOKUP_BUDGET_S)
        location = self._locations.get(file.path, lambda: self._locate(asker, commit, file.path))
        return HttpRequest(location.url, location.headers)

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        """See `origins.ports.Origin.judge`."""
        verdict = common_verdict(file.path, head, body, time.time())
        if verdict is not None:
            return verdict
        location = self._locations.last(file.path)
        if location is None or self._is_own(location.url):
            error = self._refusal(head, body, file.path)
            return Verdict(Next.FATAL, error.message, error=error)
        text = said(head, body)
        why = f"{self._ref.name}: {file.path}: the CDN refuses the signed URL with {head.status}" + (f" ({text})" if text else "")
        if head.status in _STALE and not self._locations.refused(file.path):
            return Verdict(Next.REFRESH, why)
        denied = Denied(f"{why}, looked up afresh each time", hint="check this machine's clock and the proxy, then try again")
        return Verdict(Next.FATAL, denied.message, error=denied)

    def refresh(self, file: FileEntry) -> None:
        """Look the file's place up again."""
        self._locations.drop(file.path)

    def _commit(self) -> str:
        revision = self._ref.revision
        if COMMIT.fullmatch(revision):
            return revision
        quoted = urllib.parse.quote(revision, safe="")
        reply = self._read(f"{self._endpoint}/api/models/{self._ref.repo}/revision/{quoted}")
        try:
            return commit_of(reply.body)
        except NotHub as exc:
            raise self._not_a_hub(exc) from exc

    def _tree(self, commit: str) -> list[FileEntry]:
        files: list[FileEntry] = []
        url: str | None = f"{self._endpoint}/api/models/{self._ref.repo}/tree/{commit}?recursive=true&expand=false"
        seen = set[str]()
        while url is not None:
            seen.add(url)
            reply = self._read(url)
            try:
                files += tree_files(reply.body)
            except NotHub as exc:
                raise self._not_a_hub(exc) from exc
            if len(files) > MAX_FILES:
                raise Misconfigured(f"{self._ref.name} has more than {MAX_FILES} files", hint="stage another repository")
            url = self._next(reply)
            if url in seen:
                raise Unavailable(f"{self._ref.name}: the hub's listing runs in circles", hint="run the same command again later")
        if not files:
            raise NotFound(f"{self._ref.name} is empty", hint="check the revision")
        return files

    def _next(self, reply: Reply) -> str | None:
        link = next_link(reply.head.headers.get("link", ""))
        return urllib.parse.urljoin(reply.url, link) if link is not None else None

    def _read(self, url: str) -> Reply:
        reply = self._asker.read(lambda: HttpRequest(url, {**_JSON, **self._authorization(url)}), self._ref.name)
        if reply.head.status != 200:
            raise self._refusal(reply.head, reply.body)
        return reply

    def _locate(self, asker: Asker, commit: str, path: str) -> Location:
        """Follow the hub's own redirects up to the one that leads away; the CDN itself is asked nothing."""
        url = f"{self._endpoint}/{self._ref.repo}/resolve/{commit}/{urllib.parse.quote(path, safe='/')}"
        reply = asker.glance(
            lambda: HttpRequest(url, {**_IDENTITY, **self._authorization(url)}, "HEAD"),
            f"{self._ref.name}: {path}",
            follow=lambda _, to: self._is_own(to.url) and "/api/resolve-cache/" not in to.url,
        )
        now, head = time.monotonic(), reply.head
        if head.status not in REDIRECTS:
            if head.status != 200:
                raise self._refusal(head, reply.body, path)
            return Location(reply.url, self._authorization(reply.url), found_at=now)
        target = urllib.parse.urljoin(reply.url, head.headers.get("location", ""))
        lifetime = lifetime_s(target, _server_time(head))
        good_until = float("inf") if lifetime is None else now + good_for_s(lifetime)
        return Location(target, self._authorization(target), good_until, now)

    def _authorization(self, url: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token.value}"} if self._token.value and self._is_own(url) else {}

    def _is_own(self, url: str) -> bool:
        ours, theirs = urllib.parse.urlsplit(self._endpoint), urllib.parse.urlsplit(url)
        return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)

    def _refusal(self, head: ResponseHead, body: bytes, path: str | None = None) -> PrestageError:
        page = f"{self._endpoint}/{self._ref.repo}"
        return refusal(self._ref.name, head, body, token=self._token, page=page, path=path)

    def _not_a_hub(self, exc: NotHub) -> Unavailable:
        return Unavailable(
            f"{self._ref.name}: {self._endpoint} gave an answer that is not a hub's: {exc}", hint="check HF_ENDPOINT"
        )


def endpoint_of(environ: Mapping[str, str]) -> str:
    """HF_ENDPOINT without a slash at its end, else the public hub.

    Raises:
        Misconfigured: not an http(s) URL.
    """
    text = environ.get("HF_ENDPOINT") or PUBLIC
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise Misconfigured(f"HF_ENDPOINT is not a URL: {exc}", hint="write HF_ENDPOINT=https://host") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.query:
        raise Misconfigured("HF_ENDPOINT is not a plain http(s) URL", hint="write HF_ENDPOINT=https://host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown_port = f":{port}" if port and port != {"http": 80, "https": 443}[parts.scheme] else ""
    return f"{parts.scheme}://{host}{shown_port}{parts.path.rstrip('/')}"


def token_of(environ: Mapping[str, str]) -> Token:
    """HF_TOKEN, else the file of HF_TOKEN_PATH, else the one that `hf auth login` writes (below HF_HOME).

    Raises:
        Misconfigured: a token that cannot be one, or a file that cannot be read; said without its content.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if value := environ.get(name, "").strip():
            return Token(_checked(value, name), f"with the token from {name}")
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "TRUE", "YES", "ON"):
        return Token(None, "without a token (HF_HUB_DISABLE_IMPLICIT_TOKEN)")
    cache = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME') or '/nonexistent'}/.cache"
    home = environ.get("HF_HOME") or f"{cache}/huggingface"
    path = Path(environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        value = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return Token(None, "without a token")
    except (OSError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"the token file {str(path)!r} cannot be read", hint="repair it or set HF_TOKEN") from exc
    return Token(_checked(value, str(path)), f"with the token from {path}") if value else Token(None, "without a token")


def _checked(value: str, source: str) -> str:
    if not re.fullmatch(r"[!-~]{1,4096}", value):
        raise Misconfigured(f"what {source} holds is not a token", hint="a token is one word of letters and digits: hf_...")
    return value


def _server_time(head: ResponseHead) -> float:
    """The Date of an answer: signed URLs end by the server's clock. Ours where it does not say."""
    try:
        # Date is cut to whole seconds: the later end of its second is the safe one.
        return email.utils.parsedate_to_datetime(head.headers.get("date", "")).timestamp() + 1
    except (ValueError, TypeError, IndexError):
        return time.time()
