"""Keeps the caBundle of our webhooks what their certificate was signed by: old and new authority while it rotates."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from prestage.cacher.errors import PrestageError
from prestage.control.admission.manifests import GROUP, NAME
from prestage.control.patches import expected
from prestage.control.podspec import entries, part
from prestage.kube.errors import Conflict, Invalid, Missing
from prestage.kube.following import Follower
from prestage.kube.mirror import Appeared, Changed, Vanished
from prestage.kube.ports import Api, Object, PatchType, Resource, Selection

_log = logging.getLogger("prestage")
MUTATING = Resource(f"{GROUP}/v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", namespaced=False)
VALIDATING = Resource(f"{GROUP}/v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", namespaced=False)


def bundled(configuration: Object, authorities: bytes) -> list[Object]:
    """The patch that makes every webhook trust `authorities`; empty where they do."""
    wanted = base64.b64encode(authorities).decode()
    steps = list[Object]()
    for number, hook in enumerate(entries(configuration, "webhooks")):
        if part(hook, "clientConfig").get("caBundle") != wanted:
            at = f"/webhooks/{number}"
            steps += [
                expected(f"{at}/name", hook.get("name")),
                {"op": "add", "path": f"{at}/clientConfig/caBundle", "value": wanted},
            ]
    return steps


@dataclass(slots=True)
class Bundles:
    """`trust` says which; `run` writes them wherever they are not, also where somebody (a chart's upgrade) wrote over them.

    What is not ours may be what another replica made a moment ago: before anything is written, the Secret is asked.
    """

    api: Api
    pause_s: float = 1.0
    """At most one round of writes in that time."""
    retry_s: float = 5.0
    _authorities: bytes = b""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: dict[Resource, Object] = field(default_factory=dict)

    def trust(self, authorities: bytes) -> None:
        """PEM."""
        self._authorities = authorities
        self._changed.set()

    async def run(self, refresh: Callable[[], Awaitable[object]]) -> None:
        """For ever. Without the configuration there is nothing to do: the chart makes it.

        `refresh`: reads the Secret and tells `trust` what it holds; raises PrestageError.
        """
        async with asyncio.TaskGroup() as group:
            for resource in (MUTATING, VALIDATING):
                group.create_task(self._follow(resource))
            while True:
                await self._changed.wait()
                self._changed.clear()
                if not any(map(self._steps, (MUTATING, VALIDATING))):
                    continue
                is_done = await self._mend(refresh)
                await asyncio.sleep(self.pause_s if is_done else self.retry_s)
                if not is_done:
                    self._changed.set()

    async def _follow(self, resource: Resource) -> None:
        follower = Follower(self.api, resource, Selection(fields=f"metadata.name={NAME}"))
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                if isinstance(change, Appeared | Changed):
                    self._seen[resource] = change.object
                    self._changed.set()
                elif isinstance(change, Vanished):
                    self._seen.pop(resource, None)

    def _steps(self, resource: Resource) -> list[Object]:
        seen = self._seen.get(resource)
        return bundled(seen, self._authorities) if seen is not None and self._authorities else []

    async def _mend(self, refresh: Callable[[], Awaitable[object]]) -> bool:
        """False: it is to be tried again."""
        try:
            await refresh()
        except PrestageError as exc:
            _log.warning("not_trusted", extra={"fields": {"why": str(exc)}})
            return False
        return all([await self._write(resource) for resource in (MUTATING, VALIDATING)])

    async def _write(self, resource: Resource) -> bool:
        """False: it is to be tried again."""
        steps = self._steps(resource)
        if not steps:
            return True
        try:
            await self.api.patch(resource, NAME, steps, type=PatchType.JSON)
        except (Conflict, Invalid, Missing):
            return True  # it changed meanwhile: its next change is looked at
        except PrestageError as exc:
            _log.warning("not_trusted", extra={"fields": {"configuration": resource.plural, "why": str(exc)}})
            return False
        _log.info("trusted", extra={"fields": {"configuration": resource.plural}})
        return True
