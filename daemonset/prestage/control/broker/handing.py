"""/v1/manifest and /v1/fetches: for a node, of what its own NodeCache says to stage or keep, the narrowest thing that gets bytes.

    S3             a presigned GET of each object and version, `LIFE_S` at most; a public bucket: its URL
    Hugging Face   where the hub redirects to, asked with the token; what the hub serves itself: its URL where anybody may read
                   it, else the small file's content
    https          the URL at the end of the redirects

The token never leaves. What an artifact is fetched by stands in its Artifact: any namespace that resolved it will do, one
after the other, each with its own credentials, and only where its manifest says the same authority.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from prestage.api.brokerage import FETCHES_MAX, Fetch, FetchesAnswer, FetchesRequest, ManifestAnswer, ManifestRequest
from prestage.api.nodes import Action, ErrorClass, NodeCache
from prestage.api.reading import Invalid, read
from prestage.cacher.errors import Denied, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.ports import HttpRequest, NetError
from prestage.cacher.origins.http import HttpOrigin
from prestage.cacher.origins.huggingface import HubOrigin
from prestage.cacher.origins.locations import lifetime_s
from prestage.cacher.origins.s3 import S3Origin
from prestage.control.broker.credentials import S3Keys
from prestage.control.broker.identity import Node
from prestage.control.broker.opening import Opened
from prestage.control.broker.reaching import Reach
from prestage.control.broker.refusals import No, denied, misconfigured
from prestage.control.broker.shelf import Kept
from prestage.control.broker.sources import Trace, named_as
from prestage.control.broker.view import View
from prestage.kube.errors import Missing
from prestage.kube.ports import Api
from prestage.kube.resources import NODE_CACHES

LIFE_S: Final = 900
KEPT_S: Final = 60.0
"""How long an opened origin, and the credentials in it, are used again."""
_KEPT_MOST: Final = 64
_LOOKUPS_AT_ONCE: Final = 8
_INLINE_MAX: Final = 10 * 2**20
"""What a hub serves itself is below 10 MiB: larger files must be in LFS."""
_INLINE_TOGETHER: Final = 24 * 2**20
_LOGGER = logging.getLogger("prestage")


@dataclass(slots=True)
class _Entry:
    opened: Opened
    until: float
    cancel: threading.Event
    is_public: bool | None = None
    """Of a hub's repository: anybody may read what the hub serves itself."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Hander:
    """See the module."""

    def __init__(self, api: Api, view: View, reach: Reach) -> None:
        self._api, self._view, self._reach = api, view, reach
        self._entries: dict[tuple[str, str, Trace], _Entry] = {}
        self._opening: dict[tuple[str, str, Trace], asyncio.Lock] = {}

    async def manifest(self, node: Node, request: ManifestRequest) -> ManifestAnswer:
        """Raises No where it is not in the node's plan, or nowhere any more."""
        await self._check_planned(node, request.artifact)
        text, _ = await self._reach.manifest(request.artifact)
        return ManifestAnswer(manifest=text)

    async def fetches(self, node: Node, request: FetchesRequest) -> FetchesAnswer:
        """Raises No, or what the origin says."""
        if not 0 < len(request.paths) <= FETCHES_MAX:
            raise misconfigured("TooManyPaths", f"{len(request.paths)} paths: ask for 1 to {FETCHES_MAX} at once")
        await self._check_planned(node, request.artifact)
        _, manifest = await self._reach.manifest(request.artifact)
        by_path = {file.path: file for file in manifest.files}
        unknown = next((path for path in request.paths if path not in by_path), None)
        if unknown is not None:
            raise No(ErrorClass.NOT_FOUND, "NoSuchFile", f"{unknown[:200]!r} is no file of {request.artifact}")
        files = [by_path[path] for path in request.paths]
        return await self._first_good(request.artifact, manifest, files)

    async def _check_planned(self, node: Node, artifact: str) -> None:
        """A node gets what the planner wrote for this very node, and a new node of the same name nothing of the old one's."""
        refused = denied("NotInPlan", f"{artifact[:80]} is not in the plan of node {node.name}")
        try:
            found = read(NodeCache, await self._api.get(NODE_CACHES, node.name))
        except (Missing, Invalid) as exc:
            raise refused from exc
        if node.uid is not None and node.uid != found.spec.node_uid:
            raise refused
        for one in found.spec.artifacts or ():
            if one.digest == artifact and one.action is not Action.RELEASE:
                return
        raise refused

    async def _first_good(self, artifact: str, manifest: Manifest, files: Sequence[FileEntry]) -> FetchesAnswer:
        failure: Exception | None = None
        is_revoked = False
        for holder in await self._view.holders(artifact):
            for trace in holder.traces:
                if holder.revoked(named_as(trace)) is not None:
                    is_revoked = True
                    continue
                try:
                    entry = await self._entry(artifact, holder, trace, manifest)
                    return await self._answer(entry, manifest, files)
                except (No, PrestageError) as exc:
                    failure = exc
                    self._forget((artifact, holder.namespace, trace))
                    fields = {"artifact": artifact, "namespace": holder.namespace, "why": type(exc).__name__}
                    _LOGGER.warning("source-refused", extra={"fields": fields})
        if failure is None and is_revoked:
            raise denied("AccessRevoked", f"the origin of {artifact} refuses every namespace that had it", "see their Artifacts")
        raise failure or denied("NoSource", f"nothing says how {artifact} is fetched", "name it again by its ref")

    async def _entry(self, artifact: str, holder: Kept, trace: Trace, manifest: Manifest) -> _Entry:
        key = (artifact, holder.namespace, trace)
        lock = self._opening.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                known = self._entries.get(key)
                if known is not None and known.until > time.time():
                    return known
                entry = await self._open(holder, trace, manifest)
                self._forget(key)
                self._make_room()
                self._entries[key] = entry
                return entry
        finally:
            self._opening.pop(key, None)

    async def _open(self, holder: Kept, trace: Trace, manifest: Manifest) -> _Entry:
        cancel = threading.Event()
        opened = await self._reach.open(holder, trace, manifest, cancel)
        return _Entry(opened, min(time.time() + KEPT_S, (opened.expires_at or float("inf")) - 60), cancel)

    def _make_room(self) -> None:
        now = time.time()
        for key, entry in list(self._entries.items()):
            if entry.until <= now:
                self._forget(key)
        while len(self._entries) >= _KEPT_MOST:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: tuple[str, str, Trace]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.opened.close()

    async def _answer(self, entry: _Entry, manifest: Manifest, files: Sequence[FileEntry]) -> FetchesAnswer:
        place = entry.opened.place
        made = await self._reach.in_thread(lambda: fetches_of(entry, manifest, files))
        return FetchesAnswer(
            fetches=made,
            authority=manifest.authority,
            allowed_cidrs=place.origin.spec.allowed_cidrs,
            ca=place.ca,
        )

    def close(self) -> None:
        """Ends what is open."""
        for key, entry in list(self._entries.items()):
            entry.cancel.set()
            self._forget(key)


def fetches_of(entry: _Entry, manifest: Manifest, files: Sequence[FileEntry]) -> list[Fetch]:
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


def _of_hub(entry: _Entry, origin: HubOrigin, manifest: Manifest, file: FileEntry) -> Fetch:
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


def _is_public(entry: _Entry, bare: HttpRequest) -> bool:
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
