"""The API as a table: method, path, who may call it, what goes in and comes out. The dispatcher and the OpenAPI document read it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.agent.callers import Caller, Role
from prestage.cacher.agent.messages import (
    AdoptRequest,
    Artifact,
    Evicted,
    Explained,
    Held,
    HoldRequest,
    ImportRequest,
    NamedRequest,
    Reported,
    ReportRequest,
    Request,
    Resolved,
    SocketName,
    SocketRequest,
    StageRequest,
    StageView,
    Status,
    TreeRequest,
    TreeView,
    Unpinned,
    VerifyRequest,
)
from prestage.cacher.agent.service import Service
from prestage.cacher.agent.shown import stage_view
from prestage.cacher.staging.events import Event


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    service: Service
    caller: Caller
    parts: Mapping[str, str]
    """What stood in the path."""
    body: Request | None


Handler = Callable[[Call], Awaitable[object]]
Streamer = Callable[[Call], Awaitable[AsyncGenerator[Event]]]


@dataclass(frozen=True, slots=True)
class Route:
    """One row."""

    method: str
    path: str
    role: Role
    summary: str
    handler: Handler | None = None
    stream: Streamer | None = None
    """Instead of `handler`: answers with events, one JSON object a line, the last one `done` or `error`."""
    takes: type[Request] | None = None
    """Body of a POST; query of a GET or DELETE."""
    gives: object = None
    """Type of the answer; None: 204, no content."""


def _named(call: Call) -> NamedRequest:
    assert isinstance(call.body, NamedRequest)
    return call.body


async def _stage(call: Call) -> AsyncGenerator[Event]:
    assert isinstance(call.body, StageRequest)
    return call.service.follow(await call.service.begin(call.body))


async def _begin(call: Call) -> StageView:
    assert isinstance(call.body, StageRequest)
    return stage_view(await call.service.begin(call.body))


async def _verify(call: Call) -> AsyncGenerator[Event]:
    assert isinstance(call.body, VerifyRequest)
    return call.service.verify(call.body)


async def _adopt(call: Call) -> AsyncGenerator[Event]:
    assert isinstance(call.body, AdoptRequest)
    return call.service.adopt(call.body)


async def _import(call: Call) -> AsyncGenerator[Event]:
    assert isinstance(call.body, ImportRequest)
    return call.service.import_archive(call.body)


async def _hold(call: Call) -> Held:
    assert isinstance(call.body, HoldRequest)
    return await call.service.hold(call.body, call.caller)


async def _follow(call: Call) -> AsyncGenerator[Event]:
    return call.service.follow(call.service.stage(call.parts["id"]))


async def _events(call: Call) -> AsyncGenerator[Event]:
    return call.service.events()


async def _report(call: Call) -> Reported:
    assert isinstance(call.body, ReportRequest)
    return await call.service.report(call.body)


async def _compose(call: Call) -> TreeView:
    assert isinstance(call.body, TreeRequest)
    return await call.service.mounts.compose(call.body)


async def _open_socket(call: Call) -> None:
    assert isinstance(call.body, SocketRequest)
    await call.service.mounts.sockets.open(call.body)


async def _close_socket(call: Call) -> None:
    assert isinstance(call.body, SocketName)
    await call.service.mounts.sockets.close_one(Path(call.body.path))


async def _take_back(call: Call) -> None:
    call.service.take_back(call.parts["id"])


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/status", Role.READER, "The agent at a glance", lambda c: c.service.status(), gives=Status),
    Route("GET", "/v1/artifacts", Role.READER, "What the store holds", lambda c: c.service.artifacts(), gives=list[Artifact]),
    Route("GET", "/v1/resolve", Role.READER, "Where a ref lies; counts as a use", lambda c: c.service.resolve(_named(c)), takes=NamedRequest, gives=Resolved),
    Route("GET", "/v1/explain", Role.READER, "Why it is here, or is not", lambda c: c.service.explain(_named(c)), takes=NamedRequest, gives=Explained),
    Route("GET", "/v1/events", Role.READER, "Everything the agent does, as it does it", stream=_events),
    Route("POST", "/v1/stage", Role.ADMIN, "Stage a ref and follow it; leaving takes it back unless `keep`", stream=_stage, takes=StageRequest),
    Route("GET", "/v1/stages", Role.READER, "Stages, and those that ended lately", lambda c: c.service.stages(), gives=list[StageView]),
    Route("POST", "/v1/stages", Role.ADMIN, "Stage a ref and do not wait; say `keep`", _begin, takes=StageRequest, gives=StageView),
    Route("GET", "/v1/stages/{id}", Role.READER, "Follow a stage", stream=_follow),
    Route("DELETE", "/v1/stages/{id}", Role.ADMIN, "Take a stage back; what was fetched is kept", _take_back),
    Route("POST", "/v1/stages/{id}/pause", Role.ADMIN, "Pause a stage, over restarts too", lambda c: c.service.pause(c.parts["id"])),
    Route("POST", "/v1/stages/{id}/resume", Role.ADMIN, "Let a stage go on where it was", lambda c: c.service.resume(c.parts["id"])),
    Route("POST", "/v1/pause", Role.ADMIN, "Pause everything but waiting pods' stages", lambda c: c.service.pause(None)),
    Route("POST", "/v1/resume", Role.ADMIN, "Let everything go on", lambda c: c.service.resume(None)),
    Route("POST", "/v1/holds", Role.READER, "Keep an artifact from being evicted", _hold, takes=HoldRequest, gives=Held),
    Route("DELETE", "/v1/holds/{artifact}/{hold}", Role.READER, "Let go of a hold; idempotent", lambda c: c.service.drop_hold(c.parts["artifact"], c.parts["hold"], c.caller)),
    Route("DELETE", "/v1/pins", Role.ADMIN, "Take every pin off", lambda c: c.service.unpin(_named(c)), takes=NamedRequest, gives=Unpinned),
    Route("POST", "/v1/evict", Role.ADMIN, "Let go of an artifact; refused while held", lambda c: c.service.evict(_named(c)), takes=NamedRequest, gives=Evicted),
    Route("POST", "/v1/adopt", Role.ADMIN, "Make an artifact of what lies on this node", stream=_adopt, takes=AdoptRequest),
    Route("POST", "/v1/import", Role.ADMIN, "Make the store hold what `prestage export` wrote", stream=_import, takes=ImportRequest),
    Route("POST", "/v1/report", Role.READER, "A reader found wrong bytes: looked at again, healed", _report, takes=ReportRequest, gives=Reported),
    Route("POST", "/v1/trees", Role.ADMIN, "Put artifacts together for a pod's mount; the target's tree, if it is the same", _compose, takes=TreeRequest, gives=TreeView),
    Route("GET", "/v1/trees", Role.READER, "The trees of mounts", lambda c: c.service.mounts.all(), gives=list[TreeView]),
    Route("DELETE", "/v1/trees/{hold}", Role.ADMIN, "Let go of a mount's tree, once it is bound nowhere; idempotent", lambda c: c.service.mounts.drop(c.parts["hold"])),
    Route("POST", "/v1/sockets", Role.ADMIN, "Listen for one pod: resolve and report, for these artifacts only", _open_socket, takes=SocketRequest),
    Route("DELETE", "/v1/sockets", Role.ADMIN, "Listen there no more; idempotent", _close_socket, takes=SocketName),
    Route("POST", "/v1/verify", Role.ADMIN, "Read every byte again", stream=_verify, takes=VerifyRequest),
)  # fmt: skip
