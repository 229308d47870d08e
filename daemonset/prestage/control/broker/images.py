"""Images: resolved with their namespace's pull Secrets, and what lets a node pull one that its NodeCache lists.

    resolve   index or manifest ─▶ the manifest of the platform ─▶ config: the artifact is a digest over their digests
    hand      nothing where anybody may pull, a bearer token for pulling from this repository, a password only where the Origin
              says so (handPasswords); a mirror of the node's pool first, without any login
    prove     daily, as of models: whether the namespace may still read the image's config

OCI digests stand in the namespace's Artifact and in answers to nodes, nowhere else: no log line and no object of the cluster.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from prestage.api.brokerage import ImageAnswer, ImageRequest, ResolveRequest
from prestage.cacher.errors import PrestageError
from prestage.cacher.manifest import Manifest
from prestage.cacher.origins.asking import Asker
from prestage.control.broker.identity import Node
from prestage.control.broker.image_places import ImagePlace, at, check_image, login_for, named, pinned, place_of
from prestage.control.broker.mirrors import MIRROR_S, Mirrors
from prestage.control.broker.opening import RULES, Network, Place, client_of
from prestage.control.broker.planned import check_planned
from prestage.control.broker.reaching import Reach
from prestage.control.broker.refusals import No, denied, misconfigured
from prestage.control.broker.shelf import Kept
from prestage.control.broker.sources import Trace, named_as
from prestage.control.broker.view import View
from prestage.images.descriptors import Platform
from prestage.images.image import Image
from prestage.images.logins import Login
from prestage.images.names import SCHEME, ImageName, OciDigest
from prestage.images.placed import PlacedRegistry
from prestage.kube.ports import Api

KIND: Final = "image"
_CONFIG: Final = "config"
_VARIANTS: Final = {"arm64": "v8", "arm": "v7"}
_LOGGER = logging.getLogger("prestage")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Way:
    """How a repository is asked. `authority`: None where it is its own registry."""

    name: ImageName
    place: Place
    at: ImagePlace
    login: Login | None
    authority: str | None = None


class Images:
    """See the module."""

    def __init__(self, api: Api, view: View, reach: Reach, network: Network) -> None:
        self._api, self._view, self._reach, self._network = api, view, reach, network
        self._mirrors = Mirrors(api, view)

    async def resolve(self, request: ResolveRequest) -> tuple[Manifest, Trace]:
        """What an image is for a platform, and how it is found again.

        Raises:
            No: a wall, or a Secret that the broker may not read.
            PrestageError: what the registry or the API server says.
        """
        name, namespace = named(request.ref), request.namespace
        way = await self._way(namespace, name, request.pull_secrets)
        check_image(name, way.place.origin, self._view.policies(), self._view.labels(namespace))
        platform = platform_of(request.platform or "")
        image: Image = await self._asked(way, lambda registry: registry.resolve(platform))
        return image.manifest(), Trace(ref=pinned(name, image.roots[0]), pull_secrets=request.pull_secrets)

    async def hand(self, node: Node, request: ImageRequest) -> ImageAnswer:
        """Raises No where it is not in the node's plan, or no namespace may pull it any more; else what the registry says."""
        await check_planned(self._api, node, request.artifact)
        _, manifest = await self._reach.manifest(request.artifact)
        if manifest.kind != KIND:
            raise misconfigured("NoImage", f"{request.artifact} is no image")
        failure: No | PrestageError | None = None
        for holder in await self._view.holders(request.artifact):
            for trace in holder.traces:
                if not is_image(trace) or holder.revoked(named_as(trace)) is not None:
                    continue
                try:
                    return await self._handed(node, request, manifest, holder, trace)
                except (No, PrestageError) as exc:
                    failure = exc
                    fields = {"artifact": request.artifact, "namespace": holder.namespace, "why": type(exc).__name__}
                    _LOGGER.warning("source-refused", extra={"fields": fields})
        raise failure or denied("NoSource", f"nothing says how {request.artifact} is pulled", "name it again by its ref")

    async def prove(self, holder: Kept, trace: Trace, manifest: Manifest) -> None:
        """Raises No or PrestageError where the namespace may not read it, or nobody can tell."""
        await self._view.check_enabled(holder.namespace)
        way = await self._way(holder.namespace, named(trace.ref or ""), trace.pull_secrets)
        await self._asked(way, lambda registry: proved(registry, manifest))

    async def _handed(self, node: Node, request: ImageRequest, manifest: Manifest, holder: Kept, trace: Trace) -> ImageAnswer:
        await self._view.check_enabled(holder.namespace)
        name = named(trace.ref or "")
        way = await self._way(holder.namespace, name, trace.pull_secrets)
        if request.mirrors:
            for mirror in await self._mirrors.of(node.name, f"{SCHEME}{name}", way.place.origin):
                try:
                    async with asyncio.timeout(MIRROR_S):
                        near = _Way(name, await self._reach.places.at(mirror), at(mirror, name), None, manifest.authority)
                        return await self._asked(near, partial(_answer, near, manifest))
                except (No, PrestageError, TimeoutError) as exc:
                    self._mirrors.failed(mirror)
                    fields = {"artifact": request.artifact, "mirror": mirror.metadata.name, "why": type(exc).__name__}
                    _LOGGER.warning("mirror-passed-over", extra={"fields": fields})
        return await self._asked(way, partial(_answer, way, manifest))

    async def _way(self, namespace: str, name: ImageName, secrets: tuple[str, ...]) -> _Way:
        there = place_of(name, self._view.origins())
        login = await login_for(self._api, namespace, secrets, name)
        return _Way(name, await self._reach.places.at(there.origin), there, login)

    async def _asked(self, way: _Way, question: Callable[[PlacedRegistry], _Value]) -> _Value:
        cancel = threading.Event()

        def asked() -> _Value:
            with closing(client_of(way.place, self._network)) as client:
                asker = Asker(client, RULES, cancel=cancel)
                return question(PlacedRegistry(way.name, asker, way.login, base=way.at.base, authority=way.authority))

        try:
            return await self._reach.in_thread(asked)
        finally:
            cancel.set()


def is_image(trace: Trace) -> bool:
    """It is pulled from a registry."""
    return trace.ref is not None and trace.ref.startswith(SCHEME)


def platform_of(text: str) -> Platform:
    """linux/amd64, as the label kubernetes.io/arch has it. Raises No."""
    system, slash, architecture = text.partition("/")
    if not slash or not system.isalnum() or not architecture.isalnum() or len(text) > 40:
        raise misconfigured("NoPlatform", f"{text[:40]!r} is no platform: linux/amd64")
    return Platform(system, architecture, _VARIANTS.get(architecture, ""))


def proved(registry: PlacedRegistry, manifest: Manifest) -> None:
    """One byte of the config, with what there is to show. Blocks. Raises PrestageError: what the registry says."""
    [config] = [file for file in manifest.files if file.path == _CONFIG]
    registry.look(OciDigest(str(config.digest)), "config of the image")


def _answer(way: _Way, manifest: Manifest, registry: PlacedRegistry) -> ImageAnswer:
    """What the node asks with. Blocks."""
    if registry.authority != manifest.authority:
        raise denied("OtherOrigin", f"{way.name.registry} leads to another registry now than the image came from")
    proved(registry, manifest)
    spec, header = way.place.origin.spec, registry.authorization().get("Authorization")
    if header is not None and not header.startswith("Bearer ") and not spec.hand_passwords:
        hint = "use a registry with tokens, or an operator sets handPasswords on its Origin"
        raise misconfigured(
            "PasswordsOnly", f"the registry {way.name.registry} takes passwords only: nodes are not handed one", hint
        )
    return ImageAnswer(
        name=str(way.name),
        base=way.at.base,
        authority=manifest.authority,
        authorization=header,
        allowed_cidrs=spec.allowed_cidrs,
        ca=way.place.ca,
        is_mirror=way.authority is not None,
    )
