"""Artifact objects: made once, and told which templates got them.

spec                        immutable; the manifest in gzip, always packed to the same bytes
metadata.annotations        prestage.dev/sources: how it is fetched again (names only), newest first
status.templates            which template got it; a record is written before anybody is answered
status.access               whether the namespace may still read it at its sources
"""

from __future__ import annotations

import base64
import binascii
import datetime
import gzip
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from prestage.api.artifacts import Artifact, ArtifactSpec, SourceAccess, TemplateUse
from prestage.api.nodes import ErrorClass
from prestage.api.reading import written
from prestage.api.values import Metadata
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, Corrupt
from prestage.cacher.manifest import Manifest, parse_manifest
from prestage.control.access import proved
from prestage.control.broker.refusals import No, misconfigured
from prestage.control.broker.shelf import (
    REVISION,
    TRACES,
    TRACES_MAX,
    Kept,
    access_in,
    kept,
    object_name,
    recorded,
    traces_in,
    uses_in,
)
from prestage.control.broker.sources import Trace, named_as
from prestage.control.forgetting import TEMPLATES_MAX, RecordTerms, after_look
from prestage.kube.errors import Conflict, Missing
from prestage.kube.ports import Api, Object, Selection, metadata_of, version_of
from prestage.kube.resources import ARTIFACTS

PACKED_MAX: Final = 2**20
"""Bytes of a manifest in gzip: base64 of it, and the rest of the object, fit into etcd's 1.5 MiB."""
_MANIFEST_MAX: Final = 64 * 2**20
_ROUNDS: Final = 12
_PAGE: Final = 20
_PAGE_MAX: Final = 500
_GROWS: Final = 3
_PAGE_CHARS: Final = 16 * 2**20
"""A page of the largest manifests, or three times as many small ones as before."""


def next_page(limit: int, largest_chars: int) -> int:
    """How many Artifacts are asked for next. `largest_chars`: of the manifests of the last page."""
    fits = _PAGE_CHARS // max(1, largest_chars)
    return max(_PAGE, min(_GROWS * limit, fits, _PAGE_MAX))


def packed(manifest: Manifest) -> bytes:
    """The manifest as it is kept.

    Raises:
        No: too large for an object of the API server.
    """
    made = gzip.compress(manifest.to_bytes(), 9, mtime=0)
    if len(made) > PACKED_MAX:
        hint = "name fewer: a longer prefix, or files.include in a StagedModel"
        raise misconfigured(
            "ManifestTooLarge", f"{len(manifest.files)} files are {len(made)} bytes packed, at most {PACKED_MAX}", hint
        )
    return made


def artifact_object(manifest: Manifest, namespace: str, ref: str, trace: Trace) -> Object:
    """What is created."""
    spec = ArtifactSpec(
        digest=manifest.artifact, ref=ref[:2048], files=len(manifest.files), size=manifest.size_bytes, manifest=packed(manifest)
    )
    head = Metadata(
        name=object_name(manifest.artifact),
        namespace=namespace,
        labels={"app.kubernetes.io/managed-by": "prestage"},
        annotations={TRACES: _traces_text([trace]), **({REVISION: manifest.revision} if manifest.revision else {})},
    )
    return written(Artifact(metadata=head, spec=spec))


def raw_manifest(seen: Object) -> bytes:
    """The manifest in an Artifact, checked against its name.

    Raises:
        Corrupt: it is another, or none.
    """
    spec = seen.get("spec")
    spec = spec if isinstance(spec, Mapping) else {}
    digest = str(spec.get("digest", ""))
    try:
        unpacker = zlib.decompressobj(wbits=31)
        raw = unpacker.decompress(base64.b64decode(str(spec.get("manifest", "")), validate=True), _MANIFEST_MAX)
    except (binascii.Error, zlib.error) as exc:
        raise Corrupt(f"the Artifact {digest} holds no manifest", hint="delete it: it is made again") from exc
    parse_manifest(raw, ArtifactId(digest))
    return raw


class Records:
    """Writes and reads them."""

    def __init__(self, api: Api, *, terms: RecordTerms | None = None) -> None:
        self._api, self._terms = api, terms or RecordTerms()

    async def fresh(self, owner: str, uid: str, hash_: str, alias: str | None, ref: str | None) -> Kept | None:
        """What a template got, asked of the API server itself. Pages grow while manifests are small: most are a few KiB."""
        rest: str | None = None
        limit = _PAGE
        while True:
            page = await self._api.page(ARTIFACTS, Selection(namespace=owner), limit=limit, rest=rest)
            there = [kept(one) for one in page.items]
            found = recorded(there, uid, hash_, alias, ref)
            if found is not None or page.rest is None:
                return found
            rest, limit = page.rest, next_page(limit, max((one.manifest_chars for one in there), default=0))

    async def manifest(self, namespace: str, digest: str) -> bytes | None:
        """Canonical JSON; None: there is no such Artifact there."""
        try:
            return raw_manifest(await self._api.get(ARTIFACTS, object_name(digest), namespace=namespace))
        except Missing:
            return None

    async def write(self, manifest: Manifest, owner: str, ref: str, trace: Trace, uses: list[TemplateUse]) -> None:
        """Make the Artifact where it is not there, and add the records. Durable on return; safe to repeat.

        Raises:
            No: too large, or too many templates.
            PrestageError: the API server says no, or does not answer.
        """
        made: Object | None = None
        try:
            made = await self._api.create(ARTIFACTS, artifact_object(manifest, owner, ref, trace))
        except Conflict:
            await self._changed(owner, manifest.artifact, lambda seen: _with_trace(seen, trace), None)
        source, now = named_as(trace), datetime.datetime.now(datetime.UTC)
        rows = lambda seen: _with_access(_with_uses(seen, uses), source, lambda _: proved(source, now))  # noqa: E731
        await self._changed(owner, manifest.artifact, rows, "status", made)

    async def now(self, owner: str, digest: str) -> Kept | None:
        """As it is; None: it is gone."""
        try:
            return kept(await self._api.get(ARTIFACTS, object_name(digest), namespace=owner))
        except Missing:
            return None

    async def looked(self, owner: str, digest: str, source: str, change: Callable[[SourceAccess], SourceAccess]) -> None:
        """What was found out about access by one of its sources; nothing where it is a source no more. Raises as `write`."""
        await self._changed(owner, digest, lambda seen: _with_access(seen, source, change), "status")

    async def forget(self, owner: str, digest: str, unseen: frozenset[str]) -> int:
        """Mark and drop records of owners that are nowhere; returns how many are left. Raises as `write`, and Missing."""
        now, left = datetime.datetime.now(datetime.UTC), [0]

        def looked(seen: Object) -> Object:
            rows = uses_in(seen)
            after = after_look(rows, unseen, now, self._terms)
            left[0] = len(after)
            status = seen.get("status")
            status = status if isinstance(status, Mapping) else {}
            return seen if after == rows else {**seen, "status": {**status, "templates": _plain(after)}}

        await self._changed(owner, digest, looked, "status")
        return left[0]

    async def add(self, owner: str, digest: str, uses: list[TemplateUse]) -> None:
        """More templates of an Artifact that is there. Raises as `write`."""
        await self._changed(owner, digest, lambda seen: _with_uses(seen, uses), "status")

    async def _changed(
        self,
        owner: str,
        digest: str,
        change: Callable[[Object], Object],
        subresource: str | None,
        made: Object | None = None,
    ) -> None:
        """`made`: as the API server just answered."""
        for _ in range(_ROUNDS):
            seen = made or await self._api.get(ARTIFACTS, object_name(digest), namespace=owner)
            made, wanted = None, change(seen)
            if wanted is seen:
                return
            assert version_of(wanted), "a write over something unseen"
            try:
                await self._api.replace(ARTIFACTS, wanted, subresource=subresource)
            except Conflict:
                continue
            return
        raise Busy(f"others keep writing the Artifact {owner}/{digest}")


def _with_trace(seen: Object, trace: Trace) -> Object:
    before = traces_in(seen)
    if before[:1] == (trace,):
        return seen
    traces = [trace, *(one for one in before if one != trace)][:TRACES_MAX]
    head = metadata_of(seen)
    annotations = head.get("annotations")
    annotations = annotations if isinstance(annotations, Mapping) else {}
    return {**seen, "metadata": {**head, "annotations": {**annotations, TRACES: _traces_text(traces)}}}


def _with_uses(seen: Object, uses: list[TemplateUse]) -> Object:
    status = seen.get("status")
    status = status if isinstance(status, Mapping) else {}
    rows = uses_in(seen)
    fresh = [use for use in uses if use not in rows]
    if not fresh:
        return seen
    if len(rows) + len(fresh) > TEMPLATES_MAX:
        message = f"{len(rows)} pod templates have this artifact, at most {TEMPLATES_MAX} can"
        raise No(ErrorClass.FULL, "TooManyTemplates", message, hint="delete workloads that are not needed")
    keys = {(use.uid, use.hash, use.alias) for use in fresh}
    kept_rows = [row for row in rows if (row.uid, row.hash, row.alias) not in keys]
    return {**seen, "status": {**status, "templates": _plain([*kept_rows, *fresh])}}


def _with_access(seen: Object, source: str, change: Callable[[SourceAccess], SourceAccess]) -> Object:
    access = _plain([change(row) if row.source == source else row for row in access_in(seen)])
    status = seen.get("status")
    status = status if isinstance(status, Mapping) else {}
    return seen if access == status.get("access") else {**seen, "status": {**status, "access": access}}


def _plain(rows: Iterable[SourceAccess | TemplateUse]) -> list[object]:
    return [msgspec.json.decode(msgspec.json.encode(row)) for row in rows]


def _traces_text(traces: list[Trace]) -> str:
    return msgspec.json.encode(traces).decode()
