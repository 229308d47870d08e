"""What is answered: heads as bytes, and what stands behind each resource.

2xx   the bytes, 206 a part of them     404  not here     425  not yet: Retry-After
401   no token                          412, 416, 304     503  too many connections: Retry-After
"""

from __future__ import annotations

import email.utils
import http
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from prestage.cacher.digests import BlobId, piece_span
from prestage.cacher.errors import Corrupt, NotFound, PrestageError
from prestage.cacher.serving.ingests import Ingests
from prestage.cacher.serving.protocol import BLOB_HEADER, PIECE_HEADER, Meta
from prestage.cacher.serving.requests import Asked, Refused, Request, Span, What, select
from prestage.cacher.serving.tree import Content, Tree
from prestage.cacher.store.blobs import BlobMeta

NOT_YET_S = 1
"""Retry-After of a piece that is not journaled: the journal's own interval."""

_METAS = 16
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Answer:
    """One answer. `content`, if any, is the body; whoever sends it closes it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content: Content | None = None
    close: bool = False

    @property
    def length(self) -> int:
        """Of the body, in bytes."""
        return self.content.stop - self.content.start if self.content is not None else len(self.body)


class Resources:
    """Answers to what is asked, from one store's tree. Thread-safe; reads the disk."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.ingests = Ingests(tree)
        self._metas: dict[str, tuple[BlobMeta, bytes]] = {}

    def answer(self, request: Request, asked: Asked) -> Answer | None:
        """None: nothing new of a progress; ask again later.

        Raises:
            Refused: 304, 404, 412, 416, 425.
        """
        try:
            if asked.what is What.META:
                return self._meta(request, asked)
            if asked.what is What.PROGRESS:
                return self._progress(asked)
            if asked.what is What.INGESTED_PIECE:
                return self._ingested_piece(request, asked)
            return self._blob(request, asked)
        except NotFound as exc:
            raise Refused(404, str(exc)) from exc
        except Corrupt as exc:
            raise Refused(404, f"{exc.message}: it is not served") from exc
        except PrestageError as exc:
            raise Refused(503, str(exc), {"Retry-After": "5"}) from exc
        except OSError as exc:
            log.warning("store-unreadable", extra={"fields": {"error": str(exc)}})
            raise Refused(503, f"the store cannot be read: {exc.strerror}", {"Retry-After": "5"}) from exc

    def _meta(self, request: Request, asked: Asked) -> Answer:
        etag = f'"{asked.name}.meta"'
        select({name: value for name, value in request.headers.items() if name != "range"}, etag, 0)
        return _json(self._meta_bytes(asked.blob), {"ETag": etag})

    def _meta_bytes(self, blob: BlobId) -> bytes:
        """Kept for the next peer: that of a 100 GB blob has 1.2 MB, and everybody who fetches it asks."""
        known, meta = self._metas.get(blob), self._tree.full_meta(blob)
        if known is not None and known[0] is meta:
            return known[1]
        raw = Meta(meta.size_bytes, meta.pieces, meta.chunk_sums).to_bytes()
        if len(self._metas) >= _METAS:
            self._metas.clear()
        self._metas[blob] = (meta, raw)
        return raw

    def _progress(self, asked: Asked) -> Answer | None:
        progress = self.ingests.progress(asked.name, asked.after or 0)
        if asked.wait_s != 0 and progress.records == asked.after and progress.blob is None:
            return None
        return _json(progress.to_bytes(), {"Cache-Control": "no-store"})

    def _blob(self, request: Request, asked: Asked) -> Answer:
        content, meta = self._tree.open(asked.blob)
        try:
            if asked.what is What.BLOB:
                return _part(request, content, asked.name, {})
            if asked.piece >= len(meta.pieces):
                raise Refused(404, f"{asked.name} has {len(meta.pieces)} pieces")
            content.start, content.stop = piece_span(meta.size_bytes, asked.piece)
            return _piece(request, content, meta.pieces[asked.piece], {})
        except BaseException:
            content.close()
            raise

    def _ingested_piece(self, request: Request, asked: Asked) -> Answer:
        found = self.ingests.piece(asked.name, asked.piece)
        if found is None:
            raise Refused(425, f"piece {asked.piece} is not there yet", {"Retry-After": str(NOT_YET_S)})
        if isinstance(found, str):
            answer = self._blob(request, Asked(What.PIECE, found, asked.piece))
            answer.headers = {**answer.headers, BLOB_HEADER: found}
            return answer
        content, digest = found
        try:
            return _piece(request, content, digest, {})
        except BaseException:
            content.close()
            raise


def _piece(request: Request, content: Content, digest: bytes, headers: Mapping[str, str]) -> Answer:
    name = f"blake3:{digest.hex()}"
    return _part(request, content, name, {**headers, PIECE_HEADER: name})


def _part(request: Request, content: Content, name: str, headers: Mapping[str, str]) -> Answer:
    etag = f'"{name}"'
    span = select(request.headers, etag, content.stop - content.start)
    content.start, content.stop = content.start + span.start, content.start + span.stop
    about = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "ETag": etag, **headers}
    return Answer(206 if span.partial else 200, {**about, **_content_range(span)}, content=content)


def _content_range(span: Span) -> dict[str, str]:
    return {"Content-Range": f"bytes {span.start}-{span.stop - 1}/{span.size_bytes}"} if span.partial else {}


def _json(body: bytes, headers: Mapping[str, str]) -> Answer:
    return Answer(200, {"Content-Type": "application/json", **headers}, body)


def refusal(refused: Refused) -> Answer:
    """The answer to what is refused: one line of JSON that says why."""
    if refused.status == 304:
        return Answer(304, refused.headers)
    body = json.dumps({"error": refused.why}).encode() + b"\n"
    return Answer(refused.status, {"Content-Type": "application/json", **refused.headers}, body, close=refused.close)


def head(answer: Answer, *, keep_alive: bool, now: float) -> bytes:
    """Status line and headers, with the empty line."""
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}", f"Date: {_date(int(now))}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    if answer.status != 304:
        lines.append(f"Content-Length: {answer.length}")
    lines.append(f"Connection: {'keep-alive' if keep_alive else 'close'}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@lru_cache(maxsize=2)
def _date(now: int) -> str:
    return email.utils.formatdate(now, usegmt=True)


def _phrase(status: int) -> str:
    return http.HTTPStatus(status).phrase
