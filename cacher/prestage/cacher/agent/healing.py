"""Damage: what is done about it, whoever found it. A blob in quarantine is fetched anew when somebody wants it: a reader who
reported it, or a holder. Everybody else finds the artifact `damaged`, and a stage of it fetches just that blob."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from prestage.cacher.agent.history import History, Tally
from prestage.cacher.agent.messages import Reported, ReportRequest
from prestage.cacher.agent.stages import Stages
from prestage.cacher.digests import ArtifactId, artifact_id
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Wish
from prestage.cacher.store.store import Store
from prestage.cacher.store.verify import VerifyReport
from prestage.cacher.transfer.limits import Priority

_T = TypeVar("_T")


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
        artifact = artifact_id(request.artifact)
        report = await self._blocking(lambda: self._store.verify(artifact))
        self._history.add("reported", artifact=artifact, path=request.path, offset=request.offset, damaged=len(report.bad))
        if not report.bad:
            return Reported(False, "its bytes on disk are right: what was read was damaged on its way")
        await self.found(report, wanted=artifact)
        return Reported(True, "it is in quarantine and fetched anew; open it again")

    async def found(self, report: VerifyReport, *, wanted: ArtifactId | None = None) -> None:
        """Say so, and fetch anew what somebody holds or `wanted`."""
        self._tally.damaged += len(report.bad)
        for bad in report.bad:
            for artifact in map(ArtifactId, bad.artifacts):
                self._history.add("damaged", artifact=artifact, blob=bad.blob, why=bad.why)
                if artifact == wanted or await self._is_held(artifact):
                    await self._heal(artifact)

    async def _is_held(self, artifact: ArtifactId) -> bool:
        return bool(await self._blocking(lambda: self._store.holds(artifact)))

    async def _heal(self, artifact: ArtifactId) -> None:
        known = await self._blocking(lambda: self._store.refs_of(artifact))
        if not known:
            self._history.add("not_healed", artifact=artifact, why="no ref is known for it: stage it again by hand")
            return
        first = known[0]
        wish = Wish(parse_ref(f"{first.ref}@{artifact}"), Selection(first.include, first.exclude), Priority.WAITING_POD)
        self._history.add("healing", artifact=artifact, ref=first.ref)
        await self._stages.ask(wish, keep=True)
