"""The API on a unix socket: routes dispatched, bodies checked, errors in our words, streams with heartbeats, floods bounded.

A reader who does not read is cut off after `WRITE_S`; a connection that asks nothing is closed after `idle_connection_s`; more
than `requests_max` requests, or `listeners_max` streams, at once are answered 503 with Retry-After.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from aiohttp import web

from prestage.cacher.agent.callers import Caller, caller_of, check
from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.messages import Problem, Request
from prestage.cacher.agent.openapi import STATUS_OF_KIND, document
from prestage.cacher.agent.routes import Call, Route
from prestage.cacher.agent.service import Service
from prestage.cacher.errors import Bug, Misconfigured, PrestageError, Unavailable
from prestage.cacher.staging.events import Event, error

WRITE_S = 30.0
BODY_S = 10.0
BODY_BYTES_MAX = 256 << 10
_Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The routes of one socket as an aiohttp application."""

    def __init__(self, service: Service, config: AgentConfig, routes: Sequence[Route]) -> None:
        self._service, self._config, self._routes = service, config, routes
        self.active = 0
        """Requests in work, listeners apart."""
        self.listeners = 0
        self.refused = 0
        self.requests = 0
        """Since the start."""

    def application(self) -> web.Application:
        """To be run by an AppRunner."""
        application = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._bounded])
        for route in self._routes:
            application.router.add_route(route.method, route.path, self._handle(route))
        application.router.add_get("/v1/openapi.json", self._described)
        return application

    async def _described(self, _request: web.Request) -> web.Response:
        """Made when somebody asks: each pod's socket has such an application, and hardly any pod does."""
        return web.Response(body=msgspec.json.encode(document(self._routes)), content_type="application/json")

    @web.middleware
    async def _bounded(self, request: web.Request, handler: _Handle) -> web.StreamResponse:
        if self.active >= self._config.requests_max:
            self.refused += 1
            problem = Problem("busy", f"{self.active} requests are in work", "ask again in a second")
            return _json(problem, 503, headers={"Retry-After": "1"})
        self.active += 1
        self.requests += 1
        try:
            return await handler(request)
        except web.HTTPException as exc:
            if exc.status < 400:
                raise
            return _json(
                Problem("misconfigured", f"{request.method} {request.path}: {exc.reason}", "GET /v1/openapi.json"), exc.status
            )
        finally:
            self.active -= 1

    def _handle(self, route: Route) -> _Handle:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                call = await self._call(route, request)
                if route.stream is not None:
                    return await self._listened(request, await route.stream(call))
                assert route.handler is not None
                answer = await route.handler(call)
                return web.Response(status=204) if answer is None else _json(answer, 200)
            except PrestageError as exc:
                return _problem(exc)
            except web.HTTPException:
                raise
            except ConnectionError:
                return _problem(Unavailable("the caller has gone"))  # before he had said it all: nobody reads this
            except Exception as exc:  # noqa: BLE001 - the edge of a request: one call's bug must not end the others
                log("request_bug", exc=exc, fields={"path": route.path})
                return _problem(Bug(f"{type(exc).__name__}: {exc}", hint="please report it"))

        return handle

    async def _listened(self, request: web.Request, events: AsyncGenerator[Event]) -> web.StreamResponse:
        """Who only listens takes none of the places of those who ask, but one of `listeners_max`."""
        if self.listeners >= self._config.listeners_max:
            self.refused += 1
            await events.aclose()
            problem = Problem("busy", f"{self.listeners} streams are followed", "follow fewer, or ask again later")
            return _json(problem, 503, headers={"Retry-After": "5"})
        self.active -= 1
        self.listeners += 1
        try:
            return await _stream(request, events)
        finally:
            self.listeners -= 1
            self.active += 1

    async def _call(self, route: Route, request: web.Request) -> Call:
        caller = _caller(request)
        check(caller, self._config, route.role)
        body = None
        if route.takes is not None:
            body = _decoded(route.takes, await _read(request)) if route.method == "POST" else _from_query(route.takes, request)
        return Call(self._service, caller, dict(request.match_info), body)


def _caller(request: web.Request) -> Caller:
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None:
        raise ConnectionResetError("the caller has gone")
    return caller_of(sock)


async def _read(request: web.Request) -> bytes:
    """The body, whole and soon: a client that sends half of it must not keep one of `requests_max` busy."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError as exc:
        raise Misconfigured(f"the body was not whole within {BODY_S:.0f} s", hint="send it at once") from exc
    except web.RequestPayloadError as exc:
        raise Misconfigured("the body is not framed as HTTP", hint="send Content-Length and so many bytes") from exc


def _decoded(takes: type[Request], raw: bytes) -> Request:
    try:
        return msgspec.json.decode(raw or b"{}", type=takes)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Misconfigured(f"the body is not a {takes.__name__}: {exc}", hint="GET /v1/openapi.json says what is") from exc


def _from_query(takes: type[Request], request: web.Request) -> Request:
    query: dict[str, object] = {}
    many = ("include", "exclude")
    for name in request.query:
        values = request.query.getall(name)
        if name not in many and len(values) > 1:
            raise Misconfigured(f"{name} is given {len(values)} times", hint="give it once")
        query[name] = values if name in many else values[0]
    try:
        return msgspec.convert(query, takes, strict=False)
    except msgspec.ValidationError as exc:
        raise Misconfigured(f"the query is not a {takes.__name__}: {exc}", hint="GET /v1/openapi.json says what is") from exc


async def _stream(request: web.Request, events: AsyncGenerator[Event]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    try:
        await response.prepare(request)
        try:
            async for event in events:
                await _write(response, event)
        except PrestageError as exc:
            await _write(response, error(exc))
        await response.write_eof()
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
    finally:
        await events.aclose()
    return response


async def _write(response: web.StreamResponse, event: Event) -> None:
    async with asyncio.timeout(WRITE_S):
        await response.write(msgspec.json.encode(event) + b"\n")


def _json(answer: object, status: int, *, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json", headers=headers)


def _problem(exc: PrestageError) -> web.Response:
    return _json(Problem(exc.kind, exc.message, exc.hint), STATUS_OF_KIND[exc.kind])


class IdleConnections:
    """Closes connections that ask nothing: aiohttp itself waits for a first request for ever."""

    def __init__(self, server: web.Server, idle_s: float) -> None:
        self._server, self._idle_s = server, idle_s
        self._seen: dict[object, tuple[int, float]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._idle_s / 4)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """One look."""
        seen: dict[object, tuple[int, float]] = {}
        for connection in list(self._server.connections):
            if connection._current_request is not None:
                continue
            count, since = self._seen.get(connection, (-1, now))
            if count != connection._request_count:  # it asked something since the last look
                count, since = connection._request_count, now
            seen[connection] = count, since
            if now - since >= self._idle_s:
                with suppress(ConnectionError):
                    connection.force_close()
                if connection.transport is not None:
                    connection.transport.abort()
        self._seen = seen
