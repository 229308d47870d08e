"""One layer as an origin of the house: the engine fetches it in ranges, side by side, resumes it and checks its SHA-256.

Where its bytes really are (registries redirect to object stores) is looked up once and kept while the URL and the token are good;
credentials stay with the registry.
"""

from __future__ import annotations

import time

from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.ports import HttpRequest, ResponseHead
from prestage.cacher.origins.answers import common_verdict
from prestage.cacher.origins.locations import Location, Locations, good_for_s, lifetime_s
from prestage.cacher.origins.ports import Next, Selection, Verdict
from prestage.images.descriptors import Descriptor
from prestage.images.image import layer_manifest
from prestage.images.registry import Registry

LOOKUP_BUDGET_S = 20.0
"""For lookups that a transfer's thread waits for; its own retry rules come on top."""
GOOD_FOR_S = 30.0
"""A location that says nothing of its own end: looked up again rather than found expired."""


class LayerOrigin:
    """See `cacher.origins.ports.Origin`. Of one layer; thread-safe."""

    def __init__(self, registry: Registry, blob: Descriptor) -> None:
        self._registry, self._blob = registry, blob
        self._locations = Locations()

    def resolve(self, selection: Selection) -> Manifest:
        """Nothing is asked: the image's manifest has said it."""
        return layer_manifest(self._registry.authority, self._blob)

    def request(self, manifest: Manifest, file: FileEntry) -> HttpRequest:
        """GET where the bytes are."""
        location = self._locations.get(file.path, self._look)
        is_theirs = self._registry.owns(location.url)
        return HttpRequest(location.url, self._registry.authorization() if is_theirs else {})

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        """An answer that is not the right 206."""
        subject = str(self._registry.name)
        if (verdict := common_verdict(subject, head, body, time.time())) is not None:
            return verdict
        if head.status in (401, 403, 404, 410) and not self._locations.refused(file.path):
            return Verdict(Next.REFRESH, f"{subject}: {head.status} for a layer")
        error = self._registry.refusal(head, body, "layer of the image")
        return Verdict(Next.FATAL, error.message, error=error)

    def refresh(self, file: FileEntry) -> None:
        """Look it up anew."""
        self._locations.drop(file.path)

    def _look(self) -> Location:
        asker = self._registry.asker.within(LOOKUP_BUDGET_S)
        reply = self._registry.look(self._blob.digest, "layer of the image", asker)
        now = time.monotonic()
        lifetime = lifetime_s(reply.url, time.time())
        return Location(reply.url, {}, now + (GOOD_FOR_S if lifetime is None else good_for_s(lifetime)), now)
