"""The origin of an artifact that is named by its digest alone, where nobody says where its bytes come from."""

from __future__ import annotations

from typing import NoReturn

from prestage.cacher.errors import Misconfigured
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import ArtifactRef


class UnknownOrigin:
    """Refuses whatever is asked: what is here already needs no origin, and is never asked for."""

    def __init__(self, ref: ArtifactRef) -> None:
        self._ref = ref

    def _refuse(self) -> NoReturn:
        raise Misconfigured(
            f"{self._ref.name} is not whole here, and a digest does not say where its bytes come from",
            hint="stage it by its ref: prestage stage hf://org/name",
        )

    def resolve(self, selection: Selection) -> Manifest:
        """Refused."""
        self._refuse()

    def request(self, manifest: Manifest, file: FileEntry) -> NoReturn:
        """Refused."""
        self._refuse()

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> NoReturn:
        """Refused."""
        self._refuse()

    def refresh(self, file: FileEntry) -> None:
        """Nothing to forget."""
