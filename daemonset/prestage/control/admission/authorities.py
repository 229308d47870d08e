"""Keeps the caBundle of our webhooks what their certificate was signed by: old and new authority while it rotates."""

from __future__ import annotations

import asyncio
import base64
import logging
from dataclasses import dataclass, field

from prestage.cacher.errors import PrestageError
from prestage.control.admission.manifests import GROUP, NAME
from prestage.control.patches import expected
from prestage.control.podspec import entries, part
from prestage.kube.errors import Missing
from prestage.kube.ports import Api, Object, PatchType, Resource

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
    """`trust` says which; `run` writes them, and again what somebody (a chart's upgrade) wrote over."""

    api: Api
    every_s: float = 30.0
    _authorities: bytes = b""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def trust(self, authorities: bytes) -> None:
        """PEM."""
        self._authorities = authorities
        self._changed.set()

    async def run(self) -> None:
        """For ever. Without the configuration there is nothing to do: the chart makes it."""
        while True:
            if self._authorities:
                for resource in (MUTATING, VALIDATING):
                    await self._write(resource)
            try:
                async with asyncio.timeout(self.every_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

    async def _write(self, resource: Resource) -> None:
        try:
            steps = bundled(await self.api.get(resource, NAME), self._authorities)
            if steps:
                await self.api.patch(resource, NAME, steps, type=PatchType.JSON)
                _log.info("trusted", extra={"fields": {"configuration": resource.plural}})
        except Missing:
            return
        except PrestageError as exc:
            _log.warning("not_trusted", extra={"fields": {"configuration": resource.plural, "why": str(exc)}})
