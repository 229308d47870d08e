"""What a node is handed for files of an opened origin: the narrowest request that gets each. Blocks; nothing secret leaves."""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from prestage.api.brokerage import Fetch
from prestage.cacher.errors import Denied, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins.http import HttpOrigin
from prestage.cacher.origins.huggingface import HubOrigin
from prestage.cacher.origins.locations import lifetime_s
from prestage.cacher.origins.s3 import S3Origin
from prestage.control.broker.credentials import S3Keys
from prestage.control.broker.opening import Opened
from prestage.control.broker.refusals import misconfigured

LIFE_S: Final = 900
_LOOKUPS_AT_ONCE: Final = 8
_INLINE_MAX: Final = 10 * 2**20
"""What a hub serves itself is below 10 MiB: larger files must be in LFS."""
_INLINE_TOGETHER: Final = 24 * 2**20


@dataclass(slots=True)
class Entry:
    """An opened origin, kept for a while."""

    opened: Opened
    until: float
    cancel: threading.Event
    is_public: bool | None = None
    """Of a hub's repository: anybody may read what the hub serves itself."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def fetches_of(entry: Entry, manifest: Manifest, files: Sequence[FileEntry]) -> list[Fetch]:
    """In order. Blocks; looks several up side by side where each costs a question."""
    origin = entry.opened.origin
    if isinstance(origin, S3Origin):
        return [_presigned(entry.opened, origin, manifest, file) for file in files]
    if isinstance(origin, HttpOrigin):
        return [_plain(file, origin.request(manifest, file)) for file in files]
    with ThreadPoolExecutor(min(_LOOKUPS_AT_ONCE, len(files)), thread_name_prefix="prestage-hub-lookup") as lookups:
        return list(lookups.map(lambda file: _of_hub(entry, origin, manifest, file), _affordable(files)))


def _presigned(opened: Opened, origin: S3Origin, manifest: Manifest, file: FileEntry) -> Fetch:
    now = time.time()
    life_s = LIFE_S if opened.expires_at is None else max(1, min(LIFE_S, int(opened.expires_at - now)))
    request = origin.presigned(manifest, file, life_s=life_s)
    expires_at = now + life_s if isinstance(opened.keys, S3Keys) else None
    return Fetch(path=file.path, url=request.url, headers=dict(request.headers), expires_at=expires_at)


def _plain(file: FileEntry, request: HttpRequest) -> Fetch:
    _check_bare(request)
    return Fetch(path=file.path, url=request.url, headers=dict(request.headers), expires_at=_expires_at(request.url))


def _affordable(files: Sequence[FileEntry]) -> Sequence[FileEntry]:
    """So many of the first ones as fit into one answer even where every small one must come as content."""
    together = 0
    for count, file in enumerate(files):
        together += file.size_bytes if file.size_bytes <= _INLINE_MAX else 0
        if count and together > _INLINE_TOGETHER:
            return files[:count]
    return files


def _of_hub(entry: Entry, origin: HubOrigin, manifest: Manifest, file: FileEntry) -> Fetch:
    request = origin.request(manifest, file)
    if "Authorization" not in request.headers:
        return _plain(file, request)
    bare = HttpRequest(request.url, {})
    if _is_public(entry, bare):
        return _plain(file, bare)
    if file.size_bytes > _INLINE_MAX:
        raise misconfigured("TooMuchContent", f"{file.path} has {file.size_bytes} bytes, and the hub serves it only to the token")
    try:
        reply = entry.opened.client.fetch(request, limit_bytes=_INLINE_MAX, timeout_s=20, leaving=entry.cancel)
    except NetError as exc:
        raise Unavailable(f"{file.path}: {exc}", hint="the hub is asked again") from exc
    if reply.head.status != 200 or len(reply.body) != file.size_bytes:
        raise Denied(f"{file.path}: the hub answered {reply.head.status}", hint="may the token read this repository?")
    return Fetch(path=file.path, url="", body=reply.body)


def _is_public(entry: Entry, bare: HttpRequest) -> bool:
    """Asked once for a repository: whether what the hub serves itself needs the token."""
    with entry.lock:
        if entry.is_public is None:
            try:
                body = entry.opened.client.open(HttpRequest(bare.url, {"Accept-Encoding": "identity"}, "HEAD"), entry.cancel)
            except NetError as exc:
                raise Unavailable(f"the hub: {exc}", hint="it is asked again") from exc
            body.close()
            entry.is_public = body.head.status == 200
        return entry.is_public


def _check_bare(request: HttpRequest) -> None:
    """The last line: nothing secret goes to a node but a signed URL."""
    if any(name.lower() in ("authorization", "cookie", "proxy-authorization") for name in request.headers):
        raise misconfigured("SecretHeaders", "the origin wants a header that a node may not have")
    if urllib.parse.urlsplit(request.url).username is not None:
        raise misconfigured("SecretHeaders", "the origin wants a password that a node may not have")


def _expires_at(url: str) -> float | None:
    now = time.time()
    lifetime = lifetime_s(url, now)
    return None if lifetime is None else now + lifetime
