"""What comes into the store without an origin: adopting what lies on this node, importing an archive. In threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prestage.cacher.adopting import Adopter
from prestage.cacher.agent.messages import AdoptRequest, ImportRequest
from prestage.cacher.archives.importing import import_archive
from prestage.cacher.errors import Misconfigured
from prestage.cacher.refs import HfRef, parse_ref
from prestage.cacher.staging import Stager
from prestage.cacher.staging.events import Event, Events, done
from prestage.cacher.store.store import Store


class Bringing:
    """Blocks; any thread. `endpoint`: the hub that Hugging Face caches are of."""

    def __init__(self, store: Store, stager: Stager, endpoint: str) -> None:
        self._store = store
        self._adopter = Adopter(store, stager, endpoint)

    def adopt(self, request: AdoptRequest, tell: Callable[[Event], None]) -> Event:
        """As `prestage adopt`; the path is the agent's own."""
        ref = parse_ref(request.ref) if request.ref else None
        if ref is not None and not isinstance(ref, HfRef):
            raise Misconfigured(f"{request.ref} is no hf:// ref", hint="it names a revision of a Hugging Face cache")
        return self._adopter.adopt(_absolute(request.path), ref=ref, take=request.take, watcher=Events(tell)).to_event()

    def import_archive(self, request: ImportRequest, tell: Callable[[Event], None]) -> Event:
        """As `prestage import`; the path is the agent's own."""
        staged, ref = import_archive(self._store, _absolute(request.path), watcher=Events(tell))
        return {**done(staged), "ref": ref}


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise Misconfigured(f"{text!r} is not an absolute path", hint="give the whole path, as the agent sees it")
    if not path.exists():
        raise Misconfigured(f"{text!r} does not exist where the agent runs", hint="give a path that the agent can read")
    return path
