"""The broker's HTTPS endpoints: who may ask what, and how a no is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from prestage.api.brokerage import (
    STATUSES,
    FetchesRequest,
    ImageRequest,
    ManifestRequest,
    Message,
    MountsRequest,
    RecordsRequest,
    Refusal,
    ResolveRequest,
)
from prestage.api.nodes import ErrorClass
from prestage.control.broker.counts import Counts
from prestage.control.broker.handing import Hander
from prestage.control.broker.identity import Accounts, Node, Review, Reviewer, check_planner, node_of
from prestage.control.broker.images import Images
from prestage.control.broker.mounting import Granter
from prestage.control.broker.refusals import denied, misconfigured, refusal_for
from prestage.control.broker.resolving import Resolver

_BODY_BYTES_MAX: Final = 2**20
_ACTIVE_MAX: Final = 512
_JSON: Final = "application/json"
_LOGGER = logging.getLogger("prestage")
_Asked = TypeVar("_Asked", bound=Message)
_Handler = Callable[[web.Request], Awaitable[Message]]


class Server:
    """The application. Every answer is a message of api/brokerage.py, a Refusal included."""

    def __init__(
        self,
        reviewer: Reviewer,
        accounts: Accounts,
        resolver: Resolver,
        hander: Hander,
        granter: Granter,
        counts: Counts,
        *,
        images: Images,
    ) -> None:
        self._reviewer, self._accounts = reviewer, accounts
        self._resolver, self._hander, self._granter, self._counts = resolver, hander, granter, counts
        self._images = images
        self._active = 0

    def application(self) -> web.Application:
        """Routes."""
        made = web.Application(client_max_size=_BODY_BYTES_MAX)
        for path, handler in {
            "/v1/resolve": self._resolve,
            "/v1/records": self._told,
            "/v1/manifest": self._manifest,
            "/v1/fetches": self._fetches,
            "/v1/image": self._image,
            "/v1/mounts": self._mounts,
        }.items():
            made.router.add_post(path, self._answering(path, handler))
        made.router.add_get("/healthz", self._healthz)
        return made

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _resolve(self, request: web.Request) -> Message:
        check_planner(await self._review(request), self._accounts)
        return await self._resolver.resolve(await _read(request, ResolveRequest))

    async def _told(self, request: web.Request) -> Message:
        check_planner(await self._review(request), self._accounts)
        return await self._resolver.told(await _read(request, RecordsRequest))

    async def _manifest(self, request: web.Request) -> Message:
        node = await self._node(request)
        return await self._hander.manifest(node, await _read(request, ManifestRequest))

    async def _fetches(self, request: web.Request) -> Message:
        node = await self._node(request)
        return await self._hander.fetches(node, await _read(request, FetchesRequest))

    async def _image(self, request: web.Request) -> Message:
        node = await self._node(request)
        return await self._images.hand(node, await _read(request, ImageRequest))

    async def _mounts(self, request: web.Request) -> Message:
        node = await self._node(request)
        return await self._granter.mounts(node, await _read(request, MountsRequest))

    async def _node(self, request: web.Request) -> Node:
        return node_of(await self._review(request), self._accounts)

    async def _review(self, request: web.Request) -> Review:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise denied("NotAuthenticated", "a service account's token is needed as bearer")
        return await self._reviewer.ours(token.strip())

    def _answering(self, path: str, handler: _Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            if self._active >= _ACTIVE_MAX:
                self._counts.answered(path, "Unavailable")
                busy = Refusal(
                    error_class=ErrorClass.UNAVAILABLE, code="Overloaded", message="too many questions", retry_after_s=2.0
                )
                return _refused(busy)
            self._active += 1
            try:
                said = await handler(request)
            except Exception as exc:  # noqa: BLE001  the edge of one request: told, logged, counted
                return self._no(path, exc)
            finally:
                self._active -= 1
            self._counts.answered(path, "ok")
            return web.Response(body=msgspec.json.encode(said), content_type=_JSON)

        return answer

    def _no(self, path: str, exc: Exception) -> web.Response:
        refusal = refusal_for(exc)
        if refusal is None and isinstance(exc, web.HTTPException | ConnectionError):
            refusal = Refusal(error_class=ErrorClass.MISCONFIGURED, code="BadRequest", message="the request cannot be read")
        if refusal is None:
            _LOGGER.error("request-failed", exc_info=exc, extra={"fields": {"path": path}})
            refusal = Refusal(error_class=ErrorClass.BUG, code="Bug", message="the broker failed", hint="see its log")
        elif refusal.code == "ApiServer":
            _LOGGER.warning("api-server", extra={"fields": {"path": path, "why": str(exc)}})
        else:
            # the text is the namespace's; the log of the broker has class and code
            _LOGGER.info("refused", extra={"fields": {"path": path, "class": str(refusal.error_class), "code": refusal.code}})
        self._counts.answered(path, str(refusal.error_class))
        return _refused(refusal)


def _refused(refusal: Refusal) -> web.Response:
    return web.Response(status=STATUSES[refusal.error_class], body=msgspec.json.encode(refusal), content_type=_JSON)


async def _read(request: web.Request, kind: type[_Asked]) -> _Asked:
    async with asyncio.timeout(20):
        body = await request.read()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise misconfigured("BadRequest", f"the request is no {kind.__name__}: {str(exc)[:200]}") from exc
