"""Whether each Origin answers, as the broker reaches it: `Ready`, and when it was asked last.

    Reachable                  somebody speaks HTTP there: whatever the answer, a refusal included
    Unreachable, NoCA          why, and what to do
    Unreadable, NoSuchOrigin   of a later version; a mirror of an Origin that is not there
    NotSupported, AnyHost      a type that nothing serves yet; https and OCI without an endpoint have no one server

Asked every five minutes, every minute while nobody answers. Written when it says something new, and hourly.
"""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec

from prestage.api.conditions import find, with_condition
from prestage.api.policies import Origin, OriginStatus, OriginType
from prestage.api.reading import Invalid, read, written
from prestage.api.values import API_VERSION, Condition, ConditionStatus, Metadata
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import Misconfigured, PrestageError
from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins.huggingface import PUBLIC
from prestage.control.broker.opening import Network, Place, client_of
from prestage.control.broker.refusals import No
from prestage.control.broker.resolving import Places
from prestage.control.broker.view import View
from prestage.control.unreadable import unreadable_status
from prestage.kube.errors import Missing
from prestage.kube.ports import Api, Object, name_of
from prestage.kube.resources import ORIGINS

MANAGER: Final = "prestage-broker"
EVERY_S, AGAIN_S = 300.0, 60.0
HOURLY: Final = datetime.timedelta(hours=1)
_LOOK_S: Final = 1.0
_ANSWER_S: Final = 10.0
_SERVED: Final = (OriginType.S3, OriginType.HUGGING_FACE, OriginType.HTTPS, OriginType.OCI)


@dataclass(frozen=True, slots=True)
class Said:
    """Of one look."""

    is_ready: bool
    reason: str
    message: str = ""


def address_of(origin: Origin) -> str | None:
    """Whom to ask; None: it has no one server."""
    spec = origin.spec
    if spec.endpoint is not None:
        return spec.endpoint
    if spec.type is OriginType.S3:
        return f"https://s3.{spec.region or 'us-east-1'}.amazonaws.com"
    return PUBLIC if spec.type is OriginType.HUGGING_FACE else None


def without_asking(origin: Origin, origins: Iterable[Origin]) -> Said | None:
    """What its object says already; None: it has to be asked."""
    spec = origin.spec
    if spec.type not in _SERVED:
        return Said(False, "NotSupported", f"{spec.type} origins are not served in this version")
    if spec.mirror_of is not None and all(one.metadata.name != spec.mirror_of.name for one in origins):
        return Said(False, "NoSuchOrigin", f"mirrorOf names {spec.mirror_of.name}, and there is no such Origin")
    return Said(True, "AnyHost") if address_of(origin) is None else None


def status_of(origin: Origin, said: Said, now: datetime.datetime) -> OriginStatus | None:
    """What is to be written; None: what is there says it, and is not an hour old."""
    before = origin.status or OriginStatus()
    generation = origin.metadata.generation
    status = ConditionStatus.TRUE if said.is_ready else ConditionStatus.FALSE
    conditions = with_condition(
        before.conditions, "Ready", status, reason=said.reason, message=said.message, now=now, generation=generation
    )
    old, new = find(before.conditions, "Ready"), find(conditions, "Ready")
    is_fresh = before.checked_at is not None and now - before.checked_at < HOURLY
    if is_fresh and old is not None and new is not None and _gist(old) == _gist(new):
        return None
    return OriginStatus(observed_generation=generation, checked_at=now.replace(microsecond=0), conditions=conditions)


def _gist(said: Condition) -> tuple[object, ...]:
    """Words may have an address in them that is another one each time."""
    return said.status, said.reason, said.observed_generation


class OriginStatuses:
    """`run` once the view has synced."""

    def __init__(
        self,
        api: Api,
        view: View,
        places: Places,
        network: Network,
        pool: ThreadPoolExecutor,
        *,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._api, self._view, self._places, self._network, self._pool = api, view, places, network, pool
        self._clock = clock
        self._due: dict[str, tuple[object, float]] = {}

    async def run(self) -> None:
        """Never returns."""
        while True:
            for seen in self._next():
                try:
                    await self._look(seen)
                except PrestageError as exc:
                    log("origin-status-not-written", fields={"origin": name_of(seen), "why": type(exc).__name__})
            await asyncio.sleep(_LOOK_S)

    def _next(self) -> list[Object]:
        """Those that are due, or say something else than when they were asked."""
        now_s = asyncio.get_running_loop().time()
        seen = {name_of(one): one for one in self._view.raw_origins()}
        self._due = {name: entry for name, entry in self._due.items() if name in seen}
        return [one for name, one in seen.items() if self._is_due(name, one.get("spec"), now_s)]

    def _is_due(self, name: str, spec: object, now_s: float) -> bool:
        known = self._due.get(name)
        return known is None or known[0] != spec or known[1] <= now_s

    async def _look(self, seen: Object) -> None:
        name, now_s = name_of(seen), asyncio.get_running_loop().time()
        self._due[name] = seen.get("spec"), now_s + AGAIN_S
        try:
            origin = read(Origin, seen)
        except Invalid as exc:
            status = unreadable_status(f"{exc}; nothing is resolved or fetched there until it is corrected", seen, self._clock())
            if status != seen.get("status"):
                head = {"apiVersion": API_VERSION, "kind": "Origin", "metadata": {"name": name}}
                await self._apply({**head, "status": status})
            return
        said = without_asking(origin, self._view.origins()) or await self._asked(origin)
        every_s = EVERY_S if said.is_ready else AGAIN_S
        self._due[name] = seen.get("spec"), now_s + every_s * random.uniform(0.8, 1.2)  # noqa: S311  jitter, no secret
        fresh = status_of(origin, said, self._clock())
        if fresh is not None:
            made = written(msgspec.structs.replace(origin, metadata=Metadata(name=name), status=fresh))
            await self._apply({key: value for key, value in made.items() if key != "spec"})

    async def _apply(self, body: Object) -> None:
        try:
            await self._api.apply(ORIGINS, body, manager=MANAGER, force=True, subresource="status")
        except Missing:
            return

    async def _asked(self, origin: Origin) -> Said:
        loop = asyncio.get_running_loop()
        try:
            place = await self._places.at(origin)
            return await loop.run_in_executor(self._pool, answered, place, self._network)
        except No as exc:
            return Said(False, exc.refusal.code, exc.refusal.message)
        except Misconfigured as exc:
            return Said(False, "Misconfigured", f"{exc.message}; {exc.hint}" if exc.hint else exc.message)


def answered(place: Place, network: Network) -> Said:
    """Asks it. Blocks."""
    address = address_of(place.origin)
    assert address is not None
    client = client_of(place, network)
    try:
        client.fetch(HttpRequest(address, {"Accept-Encoding": "identity"}, "HEAD"), redirects=0, timeout_s=_ANSWER_S)
    except NetError as exc:
        if exc.reason == "redirects":
            return Said(True, "Reachable")
        return Said(False, "Unreachable", f"{address}: {exc.detail}; check endpoint, allowedCIDRs, proxy and caBundleRef")
    finally:
        client.close()
    return Said(True, "Reachable")
