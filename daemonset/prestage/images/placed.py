"""A repository that answers where somebody says, and not where its name does: at an Origin's endpoint, or at a mirror of it.

What it is stays what its name says: the authority of its bytes, and so the artifact.
"""

from __future__ import annotations

from prestage.cacher.origins.asking import Asker
from prestage.images.logins import Login
from prestage.images.names import ImageName
from prestage.images.registry import Registry


class PlacedRegistry(Registry):
    """`base`: scheme://host/v2/repository. `authority`: None where it is its own."""

    def __init__(
        self, name: ImageName, asker: Asker, login: Login | None = None, *, base: str, authority: str | None = None
    ) -> None:
        self._is_tls = base.startswith("https://")
        super().__init__(name, asker, login, plain_http=not self._is_tls)
        self._base = base
        self.authority = authority or self.authority
