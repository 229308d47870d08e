"""A load under way: the plan, the threads that carry it out, and who may wait for what. Knows no framework.

checkpoint.read ─▶ plan ─▶ BlockQueue ─▶ Crew: HostLoad.read(block) ─▶ landed ─▶ whoever waits
"""

from __future__ import annotations

import time

from prestage.loader import checkpoint as checkpoints
from prestage.loader import report
from prestage.loader.blocks import BlockQueue
from prestage.loader.crew import THREADS, Crew
from prestage.loader.host_load import HostLoad
from prestage.loader.memory.budget import Budget, default_host_bytes
from prestage.loader.memory.region import Piece
from prestage.loader.model_report import ModelReport
from prestage.loader.options import Options
from prestage.loader.plan import Plan
from prestage.loader.plan import plan as planned
from prestage.loader.report import Outcome
from prestage.loader.tally import Tally
from prestage.loader.ways import Destination


class Running:
    """One load. Thread-safe."""

    def __init__(self, options: Options, plan: Plan | None = None) -> None:
        """Read the headers, unless the plan is given, and begin.

        Raises:
            as `checkpoint.read` and `plan`.
        """
        self.options = options
        self._tally = Tally()
        self.plan = plan or planned(checkpoints.read(options.path, options.verify), options.names, options.slices)
        limit = default_host_bytes() if options.host_bytes is None else options.host_bytes
        self._budget = Budget(limit)
        self._load = HostLoad(
            self.plan, destination=options.destination, readers=options.readers, budget=self._budget, tally=self._tally
        )
        waits = options.destination is Destination.PRIVATE
        self._queue = BlockQueue(len(self.plan.blocks), self._load if waits else None)
        if waits:
            self._load.on_room = self._queue.nudge
        self._threads = min(THREADS, len(self.plan.blocks))
        self._crew = Crew(self._queue, self._load.read, self._threads)

    def piece(self, name: str) -> Piece | None:
        """The verified bytes of a part, when they have landed; None for an empty one.

        Raises:
            what the readers met; Closed; OverBudget
        """
        part = self.plan.parts[name]
        if not part.size_bytes:
            self._queue.wait([self.plan.heads(part.shard)])
            return None
        began = time.perf_counter()
        self._queue.wait([self.plan.heads(part.shard), self.plan.needed(part)])
        self._tally.waited(began)
        return self._load.piece(name)

    @property
    def done(self) -> bool:
        """Whether everything has landed."""
        return self._queue.done

    def close(self) -> None:
        """Stop reading; what was returned stays. Idempotent."""
        self._crew.end()
        self._load.close()

    def report(self) -> ModelReport:
        """As far as it has come."""
        tally, found = self._tally, self.plan.checkpoint
        return ModelReport(
            path=self.options.path,
            name=found.name,
            artifact=found.artifact,
            size_bytes=self.plan.size_bytes,
            outcome=self._outcome(),
            verified_bytes=tally.verified_bytes,
            device=str(self.options.device),
            seconds=tally.seconds,
            ways={way.value: size for way, size in tally.by_way.items()},
            disk_bytes=tally.disk_bytes,
            disk_s=tally.disk_s,
            verify_s=tally.verify_s,
            read_s=tally.read_s,
            slot_s=tally.slot_s,
            waited_s=tally.consumer_s,
            threads=max(self._threads, 1),
            limit=tally.limit,
            host_peak_bytes=self._budget.peak_bytes,
        )

    def tell(self) -> None:
        """Make this the thread's last report, and say it on stderr once everything has landed."""
        last = self.report()
        report.publish(last)
        if self.done:
            report.say(last.line())

    def _outcome(self) -> Outcome:
        if self.options.verify == "off":
            return Outcome.OFF
        if all(shard.sums for shard in self.plan.checkpoint.shards):
            return Outcome.VERIFIED
        return Outcome.UNVERIFIED
