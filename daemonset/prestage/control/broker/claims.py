"""One resolves a thing at a time, over all replicas: a Lease that is created first and deleted after, and a lock in the process.

A Lease whose maker died is taken away by whoever saw it stand unchanged for `STALE_S`, by its UID; its maker has given up long
before (`resolving.DEADLINE_S`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from prestage.api.nodes import ErrorClass
from prestage.cacher.ending import to_its_end
from prestage.cacher.errors import PrestageError
from prestage.control.broker.refusals import No
from prestage.kube.errors import Conflict, Missing
from prestage.kube.ports import Api, uid_of
from prestage.kube.resources import LEASES

STALE_S: Final = 120.0
_WAIT_S: Final = 20.0


class Claims:
    """`me`: a name for people who look at the Leases."""

    def __init__(
        self, api: Api, namespace: str, me: str, *, clock: Callable[[], float] = time.monotonic, wait_s: float = _WAIT_S
    ) -> None:
        self._api, self._namespace, self._me = api, namespace, me
        self._clock, self._wait_s = clock, wait_s
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._seen: dict[str, float] = {}

    @asynccontextmanager
    async def of(self, *key: str) -> AsyncIterator[None]:
        """Hold the claim.

        Raises:
            No: somebody else holds it longer than we wait; ask again.
            PrestageError: the API server does not answer.
        """
        name = "resolve-" + hashlib.sha256("\0".join(key).encode()).hexdigest()[:40]
        async with self._locked(name):
            uid = await self._taken(name)
            try:
                yield
            finally:
                with suppress(PrestageError):  # what stays is stale soon
                    await to_its_end(self._api.delete(LEASES, name, namespace=self._namespace, uid=uid))

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        lock, waiting = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks.pop(name)
            if waiting > 1:
                self._locks[name] = (lock, waiting - 1)

    async def _taken(self, name: str) -> str:
        spec = {"holderIdentity": self._me, "leaseDurationSeconds": int(STALE_S)}
        body = {"metadata": {"name": name, "namespace": self._namespace}, "spec": spec}
        ends = self._clock() + self._wait_s
        while True:
            try:
                return uid_of(await self._api.create(LEASES, body))
            except Conflict:
                await self._look(name)
            if self._clock() >= ends:
                raise No(ErrorClass.BUSY, "BeingResolved", "another replica resolves it", retry_after_s=2.0)
            await asyncio.sleep(0.1)

    async def _look(self, name: str) -> None:
        try:
            uid = uid_of(await self._api.get(LEASES, name, namespace=self._namespace))
        except Missing:
            return
        now = self._clock()
        self._seen = {one: at for one, at in self._seen.items() if now - at < 10 * STALE_S}
        if now - self._seen.setdefault(uid, now) >= STALE_S:
            with suppress(Missing, Conflict):
                await self._api.delete(LEASES, name, namespace=self._namespace, uid=uid)
