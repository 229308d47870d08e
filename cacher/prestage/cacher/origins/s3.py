"""s3://: one object, one version of it, or everything below a prefix, at any server that speaks S3 with SigV4.

    resolve   GET <prefix>.prestage/manifest.json: a published prefix (`s3_published.py`): its files, its digests, its version;
              else ListObjectsV2. Then HEAD of each wanted object with x-amz-checksum-mode: side by side, 8 at most
    request   GET signed by headers, with If-Match, and with ?versionId= where the bucket has versions
    pinned    by version, ETag, full-object checksum (CRC64NVME, CRC32C, CRC32, SHA-256: checked after download)

Signed headers, not a presigned query: nothing expires between signing and sending, and no URL carries a credential. Range is
not signed. A region that S3 says is another one is taken over. Reading a version may be forbidden where reading the object is
not (s3:GetObjectVersion): then If-Match alone pins. Keys ending in a slash with no bytes are folders of some console: skipped.
"""

from __future__ import annotations

import email.utils
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from prestage.cacher.errors import Corrupt, Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import MAX_FILES, FileEntry, Manifest, check_path, manifest_of
from prestage.cacher.net.ports import HttpRequest, Reply, ResponseHead
from prestage.cacher.origins.answers import common_verdict, error_code
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.http import conditions
from prestage.cacher.origins.ports import Next, Selection, Verdict
from prestage.cacher.origins.s3_addresses import ENDPOINT_IS, S3Settings
from prestage.cacher.origins.s3_answers import NotXml, Page, object_entry, other_region, read_page, refusal
from prestage.cacher.origins.s3_credentials import Credentialed, Signer
from prestage.cacher.origins.s3_published import FOLDER, KEY, NotPublished, Publication, difference, parse_publication
from prestage.cacher.origins.selection import select_paths
from prestage.cacher.refs import S3Ref

HEADS_AT_ONCE = 8
_CHECKSUMS = {"x-amz-checksum-mode": "ENABLED"}
_PAYS = {"x-amz-request-payer": "requester"}
_ATTEMPTS = 4
"""Of one call: another region, then a renewed credential, twice."""


class _Sent(threading.local):
    """What this thread sent last: a verdict is about that, not about what others did meanwhile."""

    signer: Signer | None = None
    had_version: bool = False


class S3Origin:
    """See `origins.ports.Origin`."""

    def __init__(self, ref: S3Ref, asker: Asker, settings: S3Settings, chain: Credentialed) -> None:
        self._ref = ref
        self._asker = asker
        self._settings = settings
        self._chain = chain
        self._region = settings.region
        self._sends_version = True
        self._manifest_denied: Reply | None = None
        self._sent = _Sent()
        self._is_tried = False
        head, slash, self._name = ref.key.rpartition("/")
        self._base = head + slash

    def resolve(self, selection: Selection) -> Manifest:
        """List, then look at each wanted object; see `origins.ports.Origin.resolve`."""
        authority = self._settings.authority(self._ref.bucket)
        if not self._ref.is_prefix:
            paths = [self._name] if selection.allows(self._name) else []
        elif (published := self._published()) is not None:
            return self._resolve_published(authority, published, selection)
        else:
            paths = select_paths(self._list(), selection)
        for path in paths:
            check_path(path)
        return manifest_of(authority, self._base, self._look_at(paths, self._entry))

    def _resolve_published(self, authority: str, published: Publication, selection: Selection) -> Manifest:
        files = {file.path: file for file in published.files}

        def look(path: str) -> FileEntry:
            self._check_published(files[path])
            return files[path]

        paths = select_paths(files, selection)
        return manifest_of(authority, self._base, self._look_at(paths, look), revision=published.revision)

    def _published(self) -> Publication | None:
        """What the prefix's manifest says; None where there is none."""
        key = self._base + KEY
        reply = self._call("GET", key, {}, whole=True)
        if reply.head.status in (403, 404):
            # Without s3:ListBucket a key that is not there looks forbidden: the listing tells.
            self._manifest_denied = reply if reply.head.status == 403 else None
            return None
        if reply.head.status != 200:
            raise self._refusal(key, reply.head, reply.body)
        try:
            return parse_publication(reply.body)
        except NotPublished as exc:
            raise Corrupt(f"{self._shown(key)} is not what `prestage publish` wrote: {exc}", hint="publish it again") from exc

    def _check_published(self, file: FileEntry) -> None:
        """The object is the one that was published.

        Raises:
            Corrupt: it changed since, or is gone.
        """
        key = self._base + file.path
        versions = [file.version, None] if file.version else [None]
        for version in versions:
            reply = self._call("HEAD", key, {"versionId": version} if version else {})
            if reply.head.status != 403:
                break  # reading a version may be forbidden where reading the object is not
        found = object_entry(file.path, reply.head) if reply.head.status == 200 else None
        if reply.head.status in (400, 404, 405):
            why = "it is gone"
        elif found is None:
            raise self._refusal(key, reply.head, reply.body)
        else:
            why = difference(file, found)
        if why:
            raise Corrupt(
                f"{self._shown(key)} changed since it was published: {why}",
                hint="publish the prefix again; if somebody is publishing just now, stage it when that is done",
            )

    def request(self, manifest: Manifest, file: FileEntry) -> HttpRequest:
        """A signed GET; see `origins.ports.Origin.request`."""
        version = self._ref.version_id or (file.version if self._sends_version else None)
        self._sent.had_version = version is not None
        query = {"versionId": version} if version else {}
        return self._signed("GET", manifest.base + file.path, query, conditions(file))

    def presigned(self, manifest: Manifest, file: FileEntry, *, life_s: int) -> HttpRequest:
        """A GET of `file` at its version, for somebody without credentials: its URL carries the signature for `life_s`
        seconds, its headers no secret. The first call asks for the file's head: it finds the region, and whether we may.

        Raises:
            NotFound, Denied, Unavailable: as `resolve`.
        """
        key = manifest.base + file.path
        if not self._is_tried:
            self._try(key, file)
            self._is_tried = True
        version = self._ref.version_id or (file.version if self._sends_version else None)
        signer = self._sent.signer = self._chain.signer()
        url = self._settings_now().url(self._ref.bucket, key, {"versionId": version} if version else {})
        return HttpRequest(signer.presign(url, region=self._region, life_s=life_s), conditions(file))

    def _try(self, key: str, file: FileEntry) -> None:
        """The file can be read at its version; where versions may not be read, without."""
        version = self._ref.version_id or file.version
        for query in ({"versionId": version}, {}) if version else ({},):
            reply = self._call("GET", key, query, headers={"Range": "bytes=0-0"})
            if reply.head.status in (200, 206, 416):
                self._sends_version = bool(query)
                return
            if self._ref.version_id is not None or reply.head.status != 403:
                break
        raise self._refusal(key, reply.head, reply.body)

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        """See `origins.ports.Origin.judge`."""
        if region := self._is_elsewhere(head, body):
            return Verdict(Next.RETRY, f"{file.path}: the bucket is in {region}")
        code = error_code(head, body)
        if code == "RequestTimeout":
            return Verdict(Next.RETRY, f"{file.path}: {code}")
        signer = self._sent.signer
        if signer is not None and signer.may_be_stale(code) and self._chain.renew(signer):
            return Verdict(Next.RETRY, f"{file.path}: {code}: the credentials are asked for again")
        if head.status == 403 and self._sent.had_version and self._ref.version_id is None and code == "AccessDenied":
            self._sends_version = False
            self._sent.had_version = False
            return Verdict(Next.RETRY, f"{file.path}: versions may not be read, If-Match pins it")
        verdict = common_verdict(file.path, head, body, time.time())
        if verdict is not None and verdict.next is not Next.REFRESH:
            return verdict
        error = self._refusal(self._base + file.path, head, body)
        return Verdict(Next.FATAL, error.message, error=error)

    def refresh(self, file: FileEntry) -> None:
        """Ask for the credentials again, unless another thread just did."""
        if self._sent.signer is not None:
            self._chain.renew(self._sent.signer)

    def _list(self) -> list[str]:
        paths: list[str] = []
        seen = set[str]()
        query = {"list-type": "2", "encoding-type": "url", "max-keys": "1000", "prefix": self._base}
        while True:
            page = self._page(query)
            rows = [row for row in page.objects if row.key.startswith(self._base)]
            here = [row.key[len(self._base) :] for row in rows if row.size_bytes or not row.key.endswith("/")]
            if KEY in here and self._manifest_denied is not None:
                raise Denied(f"{self._shown(self._base + KEY)} may not be read", hint="ask for s3:GetObject on the whole prefix")
            paths += [path for path in here if not path.startswith(FOLDER)]
            if len(paths) > MAX_FILES:
                raise Misconfigured(f"{self._ref.name} holds more than {MAX_FILES} objects", hint="name a longer prefix")
            if page.next_token is None:
                break
            if page.next_token in seen:
                raise Unavailable(f"{self._ref.name}: the listing runs in circles", hint="the server is at fault; ask its owner")
            seen.add(page.next_token)
            query["continuation-token"] = page.next_token
        if not paths:
            raise NotFound(f"{self._ref.name}: nothing is stored below this prefix", hint="check bucket and prefix")
        return paths

    def _page(self, query: Mapping[str, str]) -> Page:
        reply = self._call("GET", "", query, whole=True)
        if reply.head.status != 200:
            raise self._refusal(self._base, reply.head, reply.body)
        try:
            return read_page(reply.body)
        except NotXml as exc:
            raise Unavailable(
                f"{self._ref.name}: the answer to a listing is not S3's: {exc}", hint=f"check {ENDPOINT_IS}"
            ) from exc

    def _look_at(self, paths: Sequence[str], look: Callable[[str], FileEntry]) -> list[FileEntry]:
        if len(paths) < 2:
            return [look(path) for path in paths]
        pool = ThreadPoolExecutor(HEADS_AT_ONCE, thread_name_prefix="prestage-s3-head")
        try:
            return list(pool.map(look, paths))
        finally:
            pool.shutdown(cancel_futures=True)

    def _entry(self, path: str) -> FileEntry:
        key = self._base + path
        query = {"versionId": self._ref.version_id} if self._ref.version_id else {}
        reply = self._call("HEAD", key, query, headers=_CHECKSUMS)
        if reply.head.status != 200:
            # A refused HEAD has no body to say why, so a GET is refused as well; it may also find region and credential cured.
            why = self._call("GET", key, query, headers={"Range": "bytes=0-0"})
            if why.head.status in (200, 206, 416):
                reply = self._call("HEAD", key, query, headers=_CHECKSUMS)
            if reply.head.status != 200:
                raise self._refusal(key, *((why.head, why.body) if why.head.status >= 300 else (reply.head, reply.body)))
        entry = object_entry(path, reply.head)
        if entry is None:
            raise Unavailable(f"{self._shown(key)}: the server does not say how long it is", hint=f"check {ENDPOINT_IS}")
        return entry

    def _call(
        self, method: str, key: str, query: Mapping[str, str], *, headers: Mapping[str, str] | None = None, whole: bool = False
    ) -> Reply:
        """Any final answer, after another region and stale credentials were cured."""
        for attempt in range(_ATTEMPTS):
            send = self._asker.read if whole else self._asker.glance
            reply = send(lambda: self._signed(method, key, query, headers or {}), self._shown(key))
            if attempt == _ATTEMPTS - 1 or reply.head.status < 300:
                break
            if self._is_elsewhere(reply.head, reply.body):
                continue
            code, signer = error_code(reply.head, reply.body), self._sent.signer
            if signer is None or not signer.may_be_stale(code) or not self._chain.renew(signer):
                break
        return reply

    def _signed(self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> HttpRequest:
        signer = self._sent.signer = self._chain.signer()
        url = self._settings_now().url(self._ref.bucket, key, query)
        headers = {**headers, **_PAYS} if self._settings.requester_pays else headers
        return HttpRequest(
            url,
            signer.sign(url, headers, method=method, region=self._region),
            method,
            connect_to=self._settings.connect_to,
        )

    def _settings_now(self) -> S3Settings:
        return self._settings if self._region == self._settings.region else self._settings.in_region(self._region)

    def _is_elsewhere(self, head: ResponseHead, body: bytes) -> str | None:
        """Take over the region that S3 says the bucket is in; None when it says nothing new."""
        region = other_region(head, body)
        if region is None or region == self._region:
            return None
        self._region = region
        return region

    def _refusal(self, key: str, head: ResponseHead, body: bytes) -> PrestageError:
        used = self._sent.signer.source if self._sent.signer is not None else "AWS credentials"
        pays = self._settings.requester_pays
        return refusal(self._shown(key), head, body, used=used, clock_off_s=_clock_off_s(head), pays=pays)

    def _shown(self, key: str) -> str:
        key = re.sub(r"[^ -~\u00a0-\U0010ffff]", "?", key)
        return f"s3://{self._ref.bucket}/{key if len(key) <= 200 else key[:197] + '...'}"


def _clock_off_s(head: ResponseHead) -> float:
    try:
        return time.time() - email.utils.parsedate_to_datetime(head.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, IndexError):
        return 0.0
