"""Leader election on a Lease: at most one leads, as far as clocks run at the same speed; nobody compares wall clocks.

    15 s  a lease that nobody was seen to renew for so long is free         (lease_s)
    10 s  a leader that could not renew for so long stops leading           (renew_s): before another may begin
     2 s  between attempts                                                  (retry_s)

Whether to take, renew or wait is decided by `decide` (pure), from the moment at which *we* saw the record change last.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from prestage.cacher.ending import to_its_end
from prestage.cacher.errors import Busy, Denied, Misconfigured, NotFound, Unavailable
from prestage.kube.errors import Conflict, Missing
from prestage.kube.ports import Api, Object, metadata_of, version_of
from prestage.kube.resources import LEASES

_log = logging.getLogger(__name__)
_REFUSALS = (Busy, Denied, Misconfigured, NotFound, Unavailable)


@dataclass(frozen=True, slots=True)
class Terms:
    """See above. client-go's defaults."""

    lease_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.renew_s < self.lease_s:
            raise Misconfigured("a lease needs retry < renew < lease", hint="the defaults are 2 s, 10 s, 15 s")


class Step(StrEnum):
    """What to do now."""

    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease as it was read, and when (on our monotonic clock) it was first read so."""

    holder: str
    lease_s: float
    record: str
    """Its resourceVersion: whatever changes it is a sign of life."""
    at_s: float


def decide(seen: Seen | None, me: str, now_s: float) -> Step:
    """`seen` None: there is no lease yet."""
    if seen is None or not seen.holder:
        return Step.TAKE
    if seen.holder == me:
        return Step.RENEW
    return Step.TAKE if now_s - seen.at_s >= seen.lease_s else Step.WAIT


def observe(lease: Object, before: Seen | None, now_s: float) -> Seen:
    """`now_s`: of before the request, so that a slow answer makes nobody look alive for longer."""
    fields = _spec(lease)
    seconds = fields.get("leaseDurationSeconds")
    lasting_s = float(seconds) if isinstance(seconds, int) and seconds > 0 else 1.0
    seen = Seen(str(fields.get("holderIdentity") or ""), lasting_s, str(version_of(lease)), now_s)
    return replace(seen, at_s=before.at_s) if before is not None and before.record == seen.record else seen


def record(lease: Object | None, me: str, *, name: str, namespace: str, now: datetime.datetime, terms: Terms) -> Object:
    """The lease as `me` holds it. Its transitions count up when the holder changes."""
    found = lease.get("spec") if lease is not None else None
    old = found if isinstance(found, dict) else {}
    mine = old.get("holderIdentity") == me
    moment = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    transitions = old.get("leaseTransitions")
    count = transitions if isinstance(transitions, int) else 0
    spec = {
        "holderIdentity": me,
        "leaseDurationSeconds": max(1, round(terms.lease_s)),
        "acquireTime": old.get("acquireTime", moment) if mine else moment,
        "renewTime": moment,
        "leaseTransitions": count if mine or lease is None else count + 1,
    }
    kept = metadata_of(lease) if lease is not None else {"name": name, "namespace": namespace}
    return {"apiVersion": LEASES.group_version, "kind": LEASES.kind, "metadata": kept, "spec": spec}


class Election:
    """Leads while it holds the lease `namespace`/`name`. `me` must be unique: the pod's name does."""

    def __init__(
        self,
        api: Api,
        *,
        name: str,
        namespace: str,
        me: str,
        terms: Terms | None = None,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._api, self._name, self._namespace, self._me = api, name, namespace, me
        self._terms = terms or Terms()
        self._now = now
        self._seen: Seen | None = None
        self._lease: Object | None = None
        self.leading = False

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then run `lead` while it is held. Returns when `lead` ended or the lease was lost.

        Lost: `lead` was cancelled, and awaited. However it ends, the lease is let go of if it is ours, so that the next one
        need not wait.
        """
        await self._take()
        self.leading = True
        _log.info("leading", extra={"fields": {"lease": self._name}})
        work = asyncio.ensure_future(_awaited(lead))
        keeping = asyncio.ensure_future(self._keep())
        try:
            await asyncio.wait((work, keeping), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            await to_its_end(self._ended(work, keeping))

    async def _ended(self, *tasks: asyncio.Future[None]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.leading = False
        await self._let_go()

    async def _take(self) -> None:
        while True:
            if await self._attempt():
                return
            await asyncio.sleep(self._terms.retry_s)

    async def _keep(self) -> None:
        """Returns when it could not be renewed in time."""
        loop = asyncio.get_running_loop()
        renewed_s = loop.time()
        while True:
            await asyncio.sleep(self._terms.retry_s)
            began_s = loop.time()
            left_s = renewed_s + self._terms.renew_s - began_s
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    held = await self._attempt()
            except TimeoutError:
                held = False
            if held:
                renewed_s = began_s
            elif self._seen is not None and self._seen.holder != self._me:
                _log.warning("lease_taken", extra={"fields": {"lease": self._name, "by": self._seen.holder}})
                return
            elif loop.time() - renewed_s >= self._terms.renew_s:
                _log.warning("lease_not_renewed", extra={"fields": {"lease": self._name}})
                return

    async def _attempt(self) -> bool:
        """True where it is ours now."""
        now_s = asyncio.get_running_loop().time()
        try:
            lease = await self._read()
            self._seen = None if lease is None else observe(lease, self._seen, now_s)
            self._lease = lease
            if decide(self._seen, self._me, now_s) is Step.WAIT:
                return False
            body = record(lease, self._me, name=self._name, namespace=self._namespace, now=self._now(), terms=self._terms)
            written = await (self._api.replace(LEASES, body) if lease is not None else self._api.create(LEASES, body))
        except Conflict:
            return False
        except _REFUSALS as exc:
            _log.warning("lease_failed", extra={"fields": {"lease": self._name, "error": str(exc)}})
            return False
        self._lease, self._seen = written, observe(written, None, now_s)
        return True

    async def _read(self) -> Object | None:
        try:
            return await self._api.get(LEASES, self._name, namespace=self._namespace)
        except Missing:
            return None

    async def _let_go(self) -> None:
        """Where it is not ours any more the replace meets another resourceVersion, and nothing happens."""
        if self._lease is None or self._seen is None or self._seen.holder != self._me:
            return
        try:
            async with asyncio.timeout(self._terms.renew_s):
                try:
                    await self._api.replace(LEASES, _free(self._lease))
                except Conflict:  # a renewal of ours that was cut off may have been the last to write
                    lease = await self._read()
                    if lease is not None and _spec(lease).get("holderIdentity") == self._me:
                        await self._api.replace(LEASES, _free(lease))
        except (*_REFUSALS, Conflict, TimeoutError) as exc:
            _log.info("lease_not_let_go", extra={"fields": {"lease": self._name, "error": str(exc)}})


def _spec(lease: Object) -> dict[str, object]:
    spec = lease.get("spec")
    return spec if isinstance(spec, dict) else {}


def _free(lease: Object) -> Object:
    return {**lease, "spec": {**_spec(lease), "holderIdentity": "", "leaseDurationSeconds": 1}}


async def _awaited(lead: Callable[[], Awaitable[None]]) -> None:
    await lead()


def renewed_ago_s(lease: Object, now: datetime.datetime) -> float | None:
    """How long ago the holder renewed it by its own clock: "is the leader well?" None where nobody holds it."""
    fields = _spec(lease)
    text = fields.get("renewTime")
    if not fields.get("holderIdentity") or not isinstance(text, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (now - moment).total_seconds() if moment.tzinfo is not None else None
