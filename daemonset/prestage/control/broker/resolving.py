"""/v1/resolve: what a template names, resolved with its namespace's own credentials, recorded, and from then on the same.

    recorded already                                        -> that, whatever happened upstream since
    a StagedModel that was resolved at its content already  -> that, and a record
    else: walls, credentials, origin, Artifact, record      -> answered only once the record is durable

Across replicas one resolves a key at a time (claims.py), and looks again at the API server before it asks an origin.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from prestage.api.artifacts import TemplateUse
from prestage.api.brokerage import RecordsAnswer, RecordsRequest, Resolved, ResolveRequest
from prestage.api.models import StagedModel
from prestage.api.nodes import ErrorClass
from prestage.api.policies import Origin
from prestage.cacher.manifest import Manifest
from prestage.control.broker.claims import Claims
from prestage.control.broker.credentials import credentials_of
from prestage.control.broker.grants import grant_for
from prestage.control.broker.opening import Network, Place, open_to_resolve
from prestage.control.broker.records import Records, packed
from prestage.control.broker.refusals import No, denied, misconfigured
from prestage.control.broker.shelf import CONTENT, Kept
from prestage.control.broker.slots import Slots
from prestage.control.broker.sources import Source, Trace, Wish, content_of, of_model, of_ref, read_wish, shown_ref
from prestage.control.broker.view import View
from prestage.control.broker.walls import check_walls, origin_for, origin_named, type_of
from prestage.kube.errors import Missing
from prestage.kube.ports import Api
from prestage.kube.resources import CONFIG_MAPS

DEADLINE_S: Final = 55.0
ARTIFACTS_MAX: Final = 1000
"""Of one namespace."""
MANIFEST_CHARS_MAX: Final = 64 * 2**20
"""Of one namespace: what its Artifacts take in etcd."""


@dataclass(frozen=True, slots=True)
class Key:
    """Of a record."""

    owner: str
    uid: str
    hash: str
    alias: str | None
    ref: str | None


class ImageResolver(Protocol):
    """`images.Images`."""

    async def resolve(self, request: ResolveRequest) -> tuple[Manifest, Trace]:
        """What an image is for a platform."""
        ...


class Places:
    """Origins with their CA."""

    def __init__(self, api: Api, view: View, namespace: str) -> None:
        self._api, self._view, self._namespace = api, view, namespace

    def origin_of(self, source: Source) -> Place:
        """Without its CA. Raises No where there is none."""
        origins = self._view.origins()
        if source.origin is None:
            return Place(origin_for(source.ref, origins))
        return Place(origin_named(source.origin, source.ref, origins))

    async def of(self, source: Source) -> Place:
        """Raises No where there is none, or its CA is not there."""
        return await self.at(self.origin_of(source).origin)

    async def at(self, origin: Origin) -> Place:
        """Raises No where its CA is not there."""
        place = Place(origin)
        named = place.origin.spec.ca_bundle_ref
        if named is None:
            return place
        try:
            found = await self._api.get(CONFIG_MAPS, named.name, namespace=self._namespace)
        except Missing as exc:
            raise self._no_ca(place, named.name) from exc
        data = found.get("data")
        pem = data.get("ca.crt") if isinstance(data, Mapping) else None
        if not isinstance(pem, str):
            raise self._no_ca(place, named.name)
        return Place(place.origin, pem)

    def _no_ca(self, place: Place, name: str) -> No:
        where = f"ConfigMap {self._namespace}/{name} has no key ca.crt"
        return misconfigured("NoCA", f"the CA of Origin {place.origin.metadata.name} is not there: {where}", "ask an operator")


class Resolver:
    """See the module."""

    def __init__(
        self, api: Api, view: View, claims: Claims, network: Network, *, namespace: str, pool: ThreadPoolExecutor
    ) -> None:
        self._api, self._view, self._claims, self._network, self._pool = api, view, claims, network, pool
        self._records = Records(api)
        self._slots = Slots()
        self.places = Places(api, view, namespace)
        self.images: ImageResolver | None = None
        """Set before anybody asks."""

    async def resolve(self, request: ResolveRequest) -> Resolved:
        """One model of a template.

        Raises:
            No: a wall, a missing grant or credential.
            PrestageError: what the origin or the API server says.
        """
        namespace, template = request.namespace, request.template
        if not template.uid or not template.hash:
            raise misconfigured("NoTemplate", "a template has a uid and a hash")
        await self._view.check_enabled(namespace)
        wish = None if request.platform is not None else read_wish(request.alias, request.ref, namespace)
        if wish is not None and wish.is_foreign(namespace):
            check_grant(self._view, wish, namespace, request.service_account)
        key = Key(namespace if wish is None else wish.owner, template.uid, template.hash, request.alias, request.ref)
        found = self._recorded(key)
        if found is None:
            async with self._slots.of(namespace), self._claims.of(*map(str, (key.owner, key.uid, key.hash, key.alias, key.ref))):
                found = await self._fresh(key) or await (self._image(request) if wish is None else self._new(request, wish))
        return Resolved(
            artifact=found.digest,
            namespace=found.namespace,
            revision=found.revision,
            files=found.files,
            size_bytes=found.size_bytes,
        )

    async def told(self, request: RecordsRequest) -> RecordsAnswer:
        """What the planner sees no more is marked, and dropped once it was marked for long.

        Raises:
            No: there is no such Artifact.
        """
        try:
            left = await self._records.forget(request.namespace, request.artifact, frozenset(request.unseen))
        except Missing as exc:
            raise No(ErrorClass.NOT_FOUND, "NoArtifact", f"there is no Artifact {request.artifact} any more") from exc
        return RecordsAnswer(templates=left)

    async def _image(self, request: ResolveRequest) -> Known:
        assert self.images is not None
        self._check_room(request.namespace)
        manifest, trace = await self.images.resolve(request)
        use = TemplateUse(uid=request.template.uid, hash=request.template.hash, alias=request.alias, ref=request.ref)
        await self._records.write(manifest, request.namespace, request.ref, trace, [use])
        return Known(manifest.artifact, request.namespace, manifest.revision, len(manifest.files), manifest.size_bytes)

    async def _new(self, request: ResolveRequest, wish: Wish) -> Known:
        use = TemplateUse(uid=request.template.uid, hash=request.template.hash, alias=request.alias, ref=request.ref)
        if wish.model is None:
            assert wish.plain is not None
            source = of_ref(wish.plain, wish.owner, request.credentials)
            trace = Trace(ref=shown_ref(source.ref), secret=request.credentials)
            return await self._made(source, trace, [use])
        model = await self._model(wish)
        source, content = of_model(model), content_of(model)
        if wish.is_foreign(request.namespace):
            self._check_walls(source, request.namespace)  # a grant leads through the owner's wall, not around one's own
        key = Key(wish.owner, model.metadata.uid or "", content, CONTENT, None)
        own = TemplateUse(uid=key.uid, hash=key.hash, alias=CONTENT, ref=f"ref:{wish.model}")
        async with self._claims.of(key.owner, key.uid, key.hash):
            found = self._recorded(key) or await self._fresh(key)
            if found is None:
                return await self._made(source, Trace(model=wish.model), [own, use])
            await self._records.add(wish.owner, found.digest, [use])
            return found

    async def _model(self, wish: Wish) -> StagedModel:
        assert wish.model is not None
        await self._view.check_enabled(wish.owner)
        model = await self._view.fresh_model(wish.owner, wish.model)
        if model is None:
            raise No(ErrorClass.NOT_FOUND, "NoSuchModel", f"there is no StagedModel {wish.owner}/{wish.model}", hint="create it")
        return model

    async def _made(self, source: Source, trace: Trace, uses: list[TemplateUse]) -> Known:
        self._check_room(source.owner)
        self._check_walls(source, source.owner)
        place = await self.places.of(source)
        keys = await credentials_of(self._api, source.owner, source.credentials, type_of(source.ref))
        cancel = threading.Event()

        def resolved() -> Manifest:
            opened = open_to_resolve(source.ref, place, keys, self._network, cancel)
            try:
                return opened.origin.resolve(source.selection)
            finally:
                opened.close()

        manifest = await self._in_time(resolved, cancel, source)
        if source.expected is not None and manifest.artifact != source.expected:
            raise No(
                ErrorClass.CORRUPT,
                "AnotherArtifact",
                f"{shown_ref(source.ref)} is {manifest.artifact}, not {source.expected}",
                hint="it changed at its origin, or the digest was written for other files",
            )
        await asyncio.get_running_loop().run_in_executor(self._pool, packed, manifest)  # refused before anything is written
        await self._records.write(manifest, source.owner, shown_ref(source.ref), trace, uses)
        return Known(manifest.artifact, source.owner, manifest.revision, len(manifest.files), manifest.size_bytes)

    def _check_walls(self, source: Source, namespace: str) -> None:
        place = self.places.origin_of(source)
        check_walls(source.ref, place.origin, self._view.policies(), self._view.labels(namespace))

    async def _in_time(self, work: Callable[[], Manifest], cancel: threading.Event, source: Source) -> Manifest:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await loop.run_in_executor(self._pool, work)
        except TimeoutError as exc:
            message = f"{shown_ref(source.ref)}: the origin took longer than {DEADLINE_S:.0f} s"
            raise No(ErrorClass.UNAVAILABLE, "OriginSlow", message, retry_after_s=5.0) from exc
        finally:
            cancel.set()

    def _check_room(self, owner: str) -> None:
        """Artifacts are kept in etcd, which is everybody's."""
        held = self._view.shelf.of(owner)
        chars = sum(one.manifest_chars for one in held)
        if len(held) >= ARTIFACTS_MAX or chars >= MANIFEST_CHARS_MAX:
            message = f"namespace {owner} has {len(held)} Artifacts with {chars >> 20} MiB of manifests"
            hint = f"at most {ARTIFACTS_MAX} and {MANIFEST_CHARS_MAX >> 20} MiB: delete those that nobody uses"
            raise No(ErrorClass.FULL, "TooManyArtifacts", message, hint=hint)

    def _recorded(self, key: Key) -> Known | None:
        found = self._view.shelf.recorded(key.owner, key.uid, key.hash, key.alias, key.ref)
        return None if found is None else known(found)

    async def _fresh(self, key: Key) -> Known | None:
        found = await self._records.fresh(key.owner, key.uid, key.hash, key.alias, key.ref)
        return None if found is None else known(found)


@dataclass(frozen=True, slots=True)
class Known:
    """An Artifact, for the answer."""

    digest: str
    namespace: str
    revision: str | None
    files: int
    size_bytes: int


def known(one: Kept) -> Known:
    """Of an Artifact that is there."""
    return Known(one.digest, one.namespace, one.revision, one.files, one.size_bytes)


def check_grant(view: View, wish: Wish, namespace: str, service_account: str) -> str:
    """The StagedModelGrant by which a namespace has somebody else's StagedModel, by name.

    Raises:
        No: none says so. Whether the StagedModel is there is not told: that is its owner's.
    """
    assert wish.model is not None
    grants = view.grants(wish.owner, wish.model, namespace)
    found = grant_for(grants, model=wish.model, namespace=namespace, service_account=service_account)
    if found is None:
        hint = f"its owner may write a StagedModelGrant in {wish.owner} from namespace {namespace}"
        raise denied("NoGrant", f"nothing lets {namespace}/{service_account} have StagedModel {wish.owner}/{wish.model}", hint)
    return f"{wish.owner}/{found.metadata.name}"
