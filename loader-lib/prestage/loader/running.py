"""A load under way: the plan, the threads that carry it out, and who may wait for what. Knows no framework.

checkpoint.read ─▶ plan ─▶ BlockQueue ─▶ Crew: HostLoad.read(block) ─▶ landed ─▶ whoever waits
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from prestage.loader import checkpoint as checkpoints
from prestage.loader import report
from prestage.loader.blocks import BlockQueue
from prestage.loader.crew import DEVICE_THREADS, THREADS, Crew
from prestage.loader.host_load import HostLoad
from prestage.loader.memory.budget import Budget, default_host_bytes
from prestage.loader.memory.region import Piece
from prestage.loader.model_report import ModelReport
from prestage.loader.options import Options, index_of
from prestage.loader.plan import BLOCK_BYTES, DEVICE_BLOCK_BYTES
from prestage.loader.plan import plan as planned
from prestage.loader.report import Outcome
from prestage.loader.tally import Tally
from prestage.loader.ways import Destination

if TYPE_CHECKING:
    from prestage.loader.device_load import DeviceLoad
    from prestage.loader.memory.device import Allocator, Buffer


class Running:
    """One load. Thread-safe."""

    def __init__(self, options: Options, allocator: Allocator | None = None) -> None:
        """Read the headers and begin. `allocator`: of device memory, default the driver's.

        Raises:
            as `checkpoint.read` and `plan`; OverBudget, DeviceError, Unsupported (no driver) for a device.
        """
        self.options = options
        self._tally = Tally()
        self.plan = planned(
            checkpoints.read(options.path, options.verify),
            options.names,
            options.slices,
            block_bytes=BLOCK_BYTES if options.on_host else DEVICE_BLOCK_BYTES,
        )
        self._threads = min(THREADS if options.on_host else DEVICE_THREADS, len(self.plan.blocks))
        self._budget = Budget(default_host_bytes() if options.host_bytes is None else options.host_bytes)
        self._host: HostLoad | None = None
        self._device: DeviceLoad | None = None
        self._ending = threading.Lock()
        self.device_number = (1, 0)
        """As DLPack numbers it."""
        try:
            if options.on_host:
                self._begin_on_host(Destination(options.destination))
            else:
                self._begin_on_device(allocator)
        except BaseException:
            self._release()
            raise

    def _begin_on_host(self, destination: Destination) -> None:
        self._host = host = HostLoad(
            self.plan, destination=destination, readers=self.options.readers, budget=self._budget, tally=self._tally
        )
        waits = destination is Destination.PRIVATE
        self._queue = BlockQueue(len(self.plan.blocks), host if waits else None)
        if waits:
            host.on_room = self._queue.nudge
        there = host.there_already()
        self._queue.land_untaken(there)
        left = len(self.plan.blocks) - len(there)
        self._crew = Crew(self._queue, host.read, min(self._threads, left))
        if left > THREADS:
            host.prefault()

    def _begin_on_device(self, allocator: Allocator | None) -> None:
        # not with the rest: 3 ms that a load to the host never needs
        from prestage.loader.device_load import DeviceLoad
        from prestage.loader.memory import cuda
        from prestage.loader.memory.device import DriverMemory

        driver = cuda.driver(index_of(self.options.device))
        self.device_number = driver.device
        self._device = DeviceLoad(
            self.plan,
            driver,
            allocator or DriverMemory(driver),
            threads=self._threads,
            readers=self.options.readers,
            pinned_bytes=self.options.pinned_bytes,
            device_bytes=self.options.device_bytes,
            tally=self._tally,
        )
        self._queue = BlockQueue(len(self.plan.blocks))
        self._crew = Crew(self._queue, self._device.read, self._threads, enter=self._device.attach)

    @property
    def on_device(self) -> bool:
        """Whether results are buffers, not pieces."""
        return self._device is not None

    def piece(self, name: str) -> Piece | None:
        """The verified bytes of a part on the host, when they have landed; None for an empty one. The same ones until `forget`.

        Raises:
            what the readers met; Closed; OverBudget
        """
        assert self._host
        return self._host.piece(name) if self.wait(name) else None

    def buffer(self, name: str) -> Buffer | None:
        """The same on the device. Raises: as `piece`; DeviceError."""
        assert self._device
        if not self.wait(name):
            return None
        began = time.perf_counter()
        found = self._device.buffer(name)
        self._tally.waited(began)
        return found

    def forget(self, name: str) -> None:
        """The caller has made a tensor of the piece or buffer, and holds the only reference now."""
        holder = self._device or self._host
        assert holder
        holder.forget(name)

    def wait(self, name: str) -> bool:
        """Return when a part's blocks have landed: whether it has any. Raises: what the readers met; Closed; OverBudget."""
        part = self.plan.parts[name]
        if not self._queue.has_all():
            began = time.perf_counter()
            self._queue.wait([self.plan.heads(part.shard), self.plan.needed(part)])
            self._tally.waited(began)
        return bool(part.size_bytes)

    @property
    def done(self) -> bool:
        """Whether everything has landed."""
        return self._queue.done

    def close(self) -> None:
        """Stop reading; what was returned stays. Idempotent; interrupted, it goes on in another thread. In a child of a fork
        nothing is done: no thread of it reads, and any lock may be held by one that stayed with the parent."""
        try:
            self._end()
        except BaseException:
            self.abandon()
            raise

    def _end(self) -> None:
        if self._queue.is_child():
            return
        with self._ending:
            self._crew.end()
            self._release()
            self._queue.forget()

    def _release(self) -> None:
        """No thread may be reading."""
        if self._host:
            self._host.close()
        if self._device:
            self._device.close()

    def abandon(self) -> None:
        """Nobody will close it. Safe in a finalizer, which may run on one of our own threads: closing is left to another one."""
        self._queue.stop()
        try:
            threading.Thread(target=self._end, name="prestage-loader-close", daemon=True).start()
        except RuntimeError:
            return  # the interpreter is ending, and takes everything with it

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
