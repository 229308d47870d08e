"""A registry as a node asks it: with the header that the broker gave, and another one once that is refused. No login is here."""

from __future__ import annotations

import threading
from collections.abc import Callable

from prestage.api.brokerage import ImageAnswer
from prestage.cacher.net.ports import HttpRequest, ResponseHead
from prestage.cacher.origins.asking import Asker
from prestage.images.names import SCHEME, parse_oci
from prestage.images.placed import PlacedRegistry


class HandedRegistry(PlacedRegistry):
    """`again`: asks the broker anew; blocks, and raises what it refuses with. Thread-safe."""

    def __init__(self, answer: ImageAnswer, asker: Asker, again: Callable[[], ImageAnswer]) -> None:
        super().__init__(parse_oci(f"{SCHEME}{answer.name}"), asker, base=answer.base, authority=answer.authority)
        self._header, self._again, self._asking = answer.authorization, again, threading.Lock()

    def authorization(self) -> dict[str, str]:
        """See Registry."""
        return {"Authorization": self._header} if self._header else {}

    def answer_to(self, request: HttpRequest, head: ResponseHead) -> bool:
        """Another header than the one that was refused. False: there is none."""
        shown = request.headers.get("Authorization")
        with self._asking:
            if self._header == shown:
                self._header = self._again().authorization
            return self._header is not None and self._header != shown
