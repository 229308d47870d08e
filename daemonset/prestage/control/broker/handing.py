"""/v1/manifest and /v1/fetches: for a node, of what its own NodeCache says to stage or keep, the narrowest thing that gets bytes.

    S3             a presigned GET of each object and version, `fetches.LIFE_S` at most; a public bucket: its URL
    Hugging Face   where the hub redirects to, asked with the token; what the hub serves itself: its URL where anybody may read
                   it, else the small file's content
    https          the URL at the end of the redirects

The token never leaves. What an artifact is fetched by stands in its Artifact: any namespace that resolved it will do, one
after the other, each with its own credentials, and only where its manifest says the same authority. A mirror of the node's pool
(mirrors.py) comes first where it answers and the bytes can be proved without it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prestage.api.brokerage import FETCHES_MAX, FetchesAnswer, FetchesRequest, ManifestAnswer, ManifestRequest
from prestage.api.nodes import ErrorClass
from prestage.api.policies import Origin
from prestage.cacher.errors import PrestageError
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.refs import text_of
from prestage.control.broker.fetches import Entry, fetches_of
from prestage.control.broker.identity import Node
from prestage.control.broker.images import KIND
from prestage.control.broker.mirrors import MIRROR_S, Mirrors, is_provable
from prestage.control.broker.opening import authority_of
from prestage.control.broker.planned import check_planned
from prestage.control.broker.reaching import Reach
from prestage.control.broker.refusals import No, denied, misconfigured
from prestage.control.broker.shelf import Kept
from prestage.control.broker.sources import Trace, named_as
from prestage.control.broker.view import View
from prestage.kube.ports import Api

KEPT_S: Final = 60.0
"""How long an opened origin, and the credentials in it, are used again."""
_KEPT_MOST: Final = 64
_LOGGER = logging.getLogger("prestage")
_Key = tuple[str, str, Trace, str | None]


@dataclass(frozen=True, slots=True)
class _Way:
    """By whose source, and at which mirror; None: at its own Origin."""

    holder: Kept
    trace: Trace
    mirror: Origin | None = None

    @property
    def key(self) -> _Key:
        """Of what is kept open."""
        name = None if self.mirror is None else self.mirror.metadata.name
        return self.holder.digest, self.holder.namespace, self.trace, name


class Hander:
    """See the module."""

    def __init__(self, api: Api, view: View, reach: Reach) -> None:
        self._api, self._view, self._reach = api, view, reach
        self._mirrors = Mirrors(api, view)
        self._entries: dict[_Key, Entry] = {}
        self._opening: dict[_Key, asyncio.Lock] = {}

    async def manifest(self, node: Node, request: ManifestRequest) -> ManifestAnswer:
        """Raises No where it is not in the node's plan, or nowhere any more."""
        await check_planned(self._api, node, request.artifact)
        text, manifest = await self._reach.manifest(request.artifact)
        _check_files(manifest)
        holders = await self._view.holders(request.artifact)
        trusts = any(self._trusts(one, trace, manifest) for one in holders for trace in one.traces)
        return ManifestAnswer(manifest=text, trust_digests=trusts)

    async def fetches(self, node: Node, request: FetchesRequest) -> FetchesAnswer:
        """Raises No, or what the origin says."""
        if not 0 < len(request.paths) <= FETCHES_MAX:
            raise misconfigured("TooManyPaths", f"{len(request.paths)} paths: ask for 1 to {FETCHES_MAX} at once")
        await check_planned(self._api, node, request.artifact)
        _, manifest = await self._reach.manifest(request.artifact)
        _check_files(manifest)
        by_path = {file.path: file for file in manifest.files}
        unknown = next((path for path in request.paths if path not in by_path), None)
        if unknown is not None:
            raise No(ErrorClass.NOT_FOUND, "NoSuchFile", f"{unknown[:200]!r} is no file of {request.artifact}")
        files = [by_path[path] for path in request.paths]
        holders = await self._view.holders(request.artifact)
        if request.mirrors and is_provable(manifest):
            for way in await self._mirrored(node, holders):
                answer = await self._tried(way, manifest, files)
                if answer is not None:
                    return answer
        return await self._first_good(request.artifact, holders, manifest, files)

    def _trusts(self, holder: Kept, trace: Trace, manifest: Manifest) -> bool:
        """The operator marked the Origin that the manifest came from."""
        try:
            source = self._reach.source(holder.namespace, trace)
            place = self._reach.places.origin_of(source)
        except No:
            return False
        return place.origin.spec.trust_digests and authority_of(source.ref, place) == manifest.authority

    async def _mirrored(self, node: Node, holders: Sequence[Kept]) -> list[_Way]:
        """By the first source that stands: a mirror is asked once for all."""
        for holder in holders:
            for trace in holder.traces:
                if holder.revoked(named_as(trace)) is None:
                    try:
                        source = self._reach.source(holder.namespace, trace)
                        primary = self._reach.places.origin_of(source).origin
                    except No:
                        continue
                    found = await self._mirrors.of(node.name, text_of(source.ref), primary)
                    return [_Way(holder, trace, mirror) for mirror in found]
        return []

    async def _tried(self, way: _Way, manifest: Manifest, files: Sequence[FileEntry]) -> FetchesAnswer | None:
        """None: by another way. A mirror that is slow is as good as none."""
        assert way.mirror is not None
        try:
            async with asyncio.timeout(MIRROR_S):
                return await self._answer(way, manifest, files)
        except (No, PrestageError, TimeoutError) as exc:
            self._forget(way.key)
            self._mirrors.failed(way.mirror)
            fields = {"artifact": manifest.artifact, "mirror": way.mirror.metadata.name, "why": type(exc).__name__}
            _LOGGER.warning("mirror-passed-over", extra={"fields": fields})
            return None

    async def _first_good(
        self, artifact: str, holders: Sequence[Kept], manifest: Manifest, files: Sequence[FileEntry]
    ) -> FetchesAnswer:
        failure: Exception | None = None
        is_revoked = False
        for holder in holders:
            for trace in holder.traces:
                if holder.revoked(named_as(trace)) is not None:
                    is_revoked = True
                    continue
                way = _Way(holder, trace)
                try:
                    return await self._answer(way, manifest, files)
                except (No, PrestageError) as exc:
                    failure = exc
                    self._forget(way.key)
                    fields = {"artifact": artifact, "namespace": holder.namespace, "why": type(exc).__name__}
                    _LOGGER.warning("source-refused", extra={"fields": fields})
        if failure is None and is_revoked:
            raise denied("AccessRevoked", f"the origin of {artifact} refuses every namespace that had it", "see their Artifacts")
        raise failure or denied("NoSource", f"nothing says how {artifact} is fetched", "name it again by its ref")

    async def _entry(self, way: _Way, manifest: Manifest) -> Entry:
        lock = self._opening.setdefault(way.key, asyncio.Lock())
        try:
            async with lock:
                known = self._entries.get(way.key)
                if known is not None and known.until > time.time():
                    return known
                entry = await self._open(way, manifest)
                self._forget(way.key)
                self._make_room()
                self._entries[way.key] = entry
                return entry
        finally:
            self._opening.pop(way.key, None)

    async def _open(self, way: _Way, manifest: Manifest) -> Entry:
        cancel = threading.Event()
        opened = await self._reach.open(way.holder, way.trace, manifest, cancel, mirror=way.mirror)
        return Entry(opened, min(time.time() + KEPT_S, (opened.expires_at or float("inf")) - 60), cancel)

    def _make_room(self) -> None:
        now = time.time()
        for key, entry in list(self._entries.items()):
            if entry.until <= now:
                self._forget(key)
        while len(self._entries) >= _KEPT_MOST:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.opened.close()

    async def _answer(self, way: _Way, manifest: Manifest, files: Sequence[FileEntry]) -> FetchesAnswer:
        entry = await self._entry(way, manifest)
        made = await self._reach.in_thread(lambda: fetches_of(entry, manifest, files))
        place = entry.opened.place
        return FetchesAnswer(
            fetches=made,
            authority=manifest.authority,
            allowed_cidrs=place.origin.spec.allowed_cidrs,
            ca=place.ca,
            is_mirror=way.mirror is not None,
        )

    def close(self) -> None:
        """Ends what is open."""
        for key, entry in list(self._entries.items()):
            entry.cancel.set()
            self._forget(key)


def _check_files(manifest: Manifest) -> None:
    """An image is asked for otherwise: its layers are no files of a store."""
    if manifest.kind == KIND:
        raise misconfigured("AnImage", f"{manifest.artifact} is an image: the images container stages it, from its registry")
