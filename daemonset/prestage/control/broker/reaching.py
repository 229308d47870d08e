"""From an artifact to its origin, once more: its manifest from any Artifact; its source, opened with its namespace's credentials
as they are now, and only where its Origin still is the authority that the manifest names.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from prestage.api.nodes import ErrorClass
from prestage.api.policies import Origin
from prestage.cacher.digests import ArtifactId
from prestage.cacher.manifest import Manifest, parse_manifest
from prestage.cacher.refs import parse_ref
from prestage.control.broker.credentials import credentials_of
from prestage.control.broker.opening import Network, Opened, authority_of, open_to_fetch
from prestage.control.broker.records import Records
from prestage.control.broker.refusals import No, denied
from prestage.control.broker.resolving import Places
from prestage.control.broker.shelf import Kept
from prestage.control.broker.sources import Source, Trace, of_model, of_ref
from prestage.control.broker.view import View
from prestage.control.broker.walls import type_of
from prestage.kube.ports import Api

DEADLINE_S: Final = 45.0
_PARSED_MOST: Final = 32
_Value = TypeVar("_Value")


class Reach:
    """See the module."""

    def __init__(self, api: Api, view: View, network: Network, places: Places, pool: ThreadPoolExecutor) -> None:
        self._api, self._view, self._network, self.places, self._pool = api, view, network, places, pool
        self._records = Records(api)
        self._parsed: dict[str, tuple[str, Manifest]] = {}

    async def manifest(self, artifact: str) -> tuple[str, Manifest]:
        """Canonical JSON, and what it says.

        Raises:
            No: no namespace has it any more.
        """
        known = self._parsed.get(artifact)
        if known is not None:
            return known
        for holder in await self._view.holders(artifact):
            raw = await self._records.manifest(holder.namespace, artifact)
            if raw is not None:
                parsed = await self.in_thread(partial(parse_manifest, raw, ArtifactId(artifact)))
                while len(self._parsed) >= _PARSED_MOST:
                    self._parsed.pop(next(iter(self._parsed)))
                self._parsed[artifact] = (raw.decode(), parsed)
                return self._parsed[artifact]
        hint = "a workload or StagedModel that names it makes it again"
        raise No(
            ErrorClass.NOT_FOUND, "NoArtifact", f"no namespace has the Artifact {artifact} any more", hint=hint, retry_after_s=1.0
        )

    async def open(
        self, holder: Kept, trace: Trace, manifest: Manifest, cancel: threading.Event, *, mirror: Origin | None = None
    ) -> Opened:
        """Whoever opens it closes it. `mirror`: there instead, with the same credentials.

        Raises:
            No: the namespace, its StagedModel, Origin or credential is not what it was.
            PrestageError: the API server does not answer.
        """
        await self._view.check_enabled(holder.namespace)
        source = self.source(holder.namespace, trace)
        place = self.places.origin_of(source)
        if authority_of(source.ref, place) != manifest.authority:
            raise denied("OtherOrigin", f"{trace.ref or trace.model} leads to another origin now than {holder.digest} came from")
        keys = await credentials_of(self._api, holder.namespace, source.credentials, type_of(source.ref))
        place = await self.places.at(mirror or place.origin)
        return await self.in_thread(lambda: open_to_fetch(source.ref, place, keys, self._network, cancel, manifest))

    def source(self, namespace: str, trace: Trace) -> Source:
        """What is opened. Raises No where its StagedModel is gone."""
        if trace.model is not None:
            model = self._view.model(namespace, trace.model)
            if model is None:
                raise denied("NoSource", f"the StagedModel {namespace}/{trace.model} is gone")
            return of_model(model)
        return of_ref(parse_ref(trace.ref or ""), namespace, trace.secret)

    async def in_thread(self, work: Callable[[], _Value]) -> _Value:
        """What blocks. Raises No where it takes too long."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await loop.run_in_executor(self._pool, work)
        except TimeoutError as exc:
            raise No(ErrorClass.UNAVAILABLE, "OriginSlow", "the origin does not answer in time", retry_after_s=5.0) from exc
