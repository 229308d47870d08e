"""Damage: what is done about it, whoever found it. A blob in quarantine is fetched anew when somebody wants it: a reader who
reported it, or a holder. Everybody else finds the artifact `damaged`, and a stage of it fetches just that blob."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from prestage.cacher.agent.history import History, Tally
from prestage.cacher.agent.messages import Reported, ReportRequest
from prestage.cacher.agent.stages import Stages
from prestage.cacher.digests import ArtifactId, artifact_id
from prestage.cacher.errors import PrestageError
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import ArtifactRef, parse_ref
from prestage.cacher.staging import Wish
from prestage.cacher.store.chunks import Verdict
from prestage.cacher.store.quarantine import DamageEvent
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.limits import Priority

_T = TypeVar("_T")
_SNAPSHOT = re.compile(r"^snapshots/[0-9a-f]{40}/")
"""What stands before a file's path where it is read in the Hugging Face layout of a tree."""
_SAID = {
    Verdict.SOUND: "its bytes are right, on the disk and in memory: open it again; if it stays, look at the reader's memory",
    Verdict.CURED: "the disk is right, the page cache was not, and was dropped: read it again",
    Verdict.DAMAGED: "it is in quarantine and fetched anew: open it again",
    Verdict.GONE: "it was taken out of use before, and is fetched anew: open it again",
}


class Blocking(Protocol):
    """Runs a call of the store in a bounded pool."""

    async def __call__(self, call: Callable[[], _T]) -> _T:
        """Its answer."""
        ...


class Healer:
    """On the loop."""

    def __init__(self, store: Store, stages: Stages, history: History, tally: Tally, blocking: Blocking) -> None:
        self._store, self._stages, self._blocking = store, stages, blocking
        self._history, self._tally = history, tally

    async def report(self, request: ReportRequest) -> Reported:
        """A reader says that a chunk has wrong bytes: look again; what is damaged is quarantined and fetched anew."""
        artifact, path = artifact_id(request.artifact), _SNAPSHOT.sub("", request.path)
        suspicion = await self._blocking(lambda: self._store.damage.suspect(artifact, path, request.offset))
        verdict = suspicion.verdict
        self._history.add("reported", artifact=artifact, path=path, offset=request.offset, verdict=verdict.value)
        if suspicion.event is not None:
            await self.found(suspicion.event, wanted=artifact)
        elif verdict is Verdict.GONE:
            await self._heal(artifact)
        return Reported(verdict in (Verdict.DAMAGED, Verdict.GONE), _SAID[verdict])

    async def found(self, event: DamageEvent, *, wanted: ArtifactId | None = None) -> None:
        """A blob was taken out of use: say so, and fetch anew what somebody holds or `wanted`."""
        self._tally.damaged += 1
        for one in event.affected:
            self._history.add("damaged", artifact=one.artifact, blob=event.blob, why=event.why, path=", ".join(one.paths)[:200])
        await self._heal_all(one.artifact for one in event.affected if one.is_wanted or one.artifact == wanted)

    async def heal_what_is_held(self) -> None:
        """Whatever was taken out of use, now or before a restart, and is held: fetch it anew.

        Raises:
            PrestageError: the first that could not be asked for; the others were.
        """
        await self._heal_all(one.artifact for one in await self._blocking(self._store.damage.affected) if one.is_wanted)

    async def _heal_all(self, artifacts: Iterable[ArtifactId]) -> None:
        failed: PrestageError | None = None
        for artifact in artifacts:
            try:
                await self._heal(artifact)
            except PrestageError as exc:
                failed = failed or exc
        if failed is not None:
            raise failed

    async def _heal(self, artifact: ArtifactId) -> None:
        known = await self._blocking(lambda: self._store.refs(artifact))
        wish = Wish(ArtifactRef(artifact), priority=Priority.WAITING_POD)
        if known:
            first = known[0]
            wish = Wish(parse_ref(f"{first.ref}@{artifact}"), Selection(first.include, first.exclude), Priority.WAITING_POD)
        self._history.add("healing", artifact=artifact, ref=wish.ref.name)
        await self._stages.ask(wish, keep=True)
