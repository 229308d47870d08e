"""Who reads which block next, which have landed, and who waits for one. Knows nothing of files or memory.

Blocks are taken in order; one that somebody waits for goes first, of several the first that there is room for. The first
failure ends everything: no waiter is left waiting, and from then on every wait raises it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from prestage.loader.errors import Closed, OverBudget

_PENDING, _FLYING, _LANDED = 0, 1, 2


class Room(Protocol):
    """Memory for blocks. Called under the queue's lock, one call at a time."""

    def fits(self, block: int) -> bool:
        """Whether the block's bytes may be taken now."""

    def occupy(self, block: int) -> None:
        """Take them; `fits` said yes just now."""


class BlockQueue:
    """Blocks 0 to `count` - 1. Thread-safe, also against finalizers that call `nudge` from inside any of its own calls."""

    def __init__(self, count: int, room: Room | None = None) -> None:
        """Without `room` there always is some."""
        self._state = bytearray(count)
        self._next = 0
        self._urgent: list[int] = []
        self._room = room
        self._left = count
        self._flying = 0
        self._failure: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()  # on an RLock: finalizers may come back in
        self._pid = os.getpid()

    def take(self) -> int | None:
        """The next block to read, now the caller's; None when there is nothing left to do. Blocks while there is no room."""
        with self._changed:
            while not self._over():
                block = self._candidate()
                if block is None:
                    return None
                if self._fits(block):
                    if self._room:
                        self._room.occupy(block)
                    self._state[block] = _FLYING
                    self._flying += 1
                    return block
                self._changed.wait()
            return None

    def land(self, block: int) -> None:
        """The bytes of `block` are there, and right."""
        with self._changed:
            self._state[block] = _LANDED
            self._flying -= 1
            self._left -= 1
            self._changed.notify_all()

    def land_untaken(self, blocks: Iterable[int]) -> None:
        """These were there from the start; called before anybody takes."""
        with self._changed:
            for block in blocks:
                self._state[block] = _LANDED
                self._left -= 1

    def fail(self, failure: BaseException) -> None:
        """A block that was taken cannot be had; ends the load."""
        with self._changed:
            self._flying -= 1
            self._failure = self._failure or failure
            self._changed.notify_all()

    def stop(self) -> None:
        """No block is taken any more; who waits gets Closed."""
        if self.is_child():
            return
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def forget(self) -> None:
        """After the end: the failure, whose traceback would keep the readers' memory until the next garbage collection."""
        self._failure = None

    def nudge(self) -> None:
        """There may be room now."""
        if self.is_child():
            return
        with self._changed:
            self._changed.notify_all()

    @property
    def done(self) -> bool:
        """Whether every block has landed."""
        return not self._left

    def wait(self, needed: Sequence[range]) -> None:
        """Return when all these blocks have landed.

        Raises:
            Exception: what a reader met, on this block or another.
            OverBudget: they cannot be read while what was returned before is kept.
            Closed: stopped meanwhile, or this is a child process.
        """
        self._refuse_child()
        with self._changed:
            while True:
                if self._failure:
                    raise self._failure
                if self._stopped:
                    raise Closed("the model is closed", hint="use it inside its with block")
                missing = [block for blocks in needed for block in self._unlanded(blocks)]
                if not missing:
                    return
                self._hurry(missing)
                self._refuse_deadlock(missing)
                self._changed.wait()

    def has_all(self) -> bool:
        """Whether there is nothing to wait for, or to raise, whatever the blocks: what `wait` would find, without a lock. Raises:
        Closed: this is a child process."""
        self._refuse_child()
        return not self._left and not self._over()

    def is_child(self) -> bool:
        """After a fork: nobody reads or waits here, and the lock may be held by a thread that stayed with the parent."""
        return os.getpid() != self._pid

    def _refuse_child(self) -> None:
        if self.is_child():
            raise Closed("the model was opened before a fork", hint="open it in the process that uses it")

    def _unlanded(self, blocks: range) -> Iterable[int]:
        if len(blocks) == self._state.count(_LANDED, blocks.start, blocks.stop):
            return ()
        return (block for block in blocks if self._state[block] != _LANDED)

    def _hurry(self, blocks: Sequence[int]) -> None:
        waiting = [block for block in blocks if self._state[block] == _PENDING and block not in self._urgent]
        if waiting:
            self._urgent += waiting
            self._changed.notify_all()

    def _refuse_deadlock(self, missing: Sequence[int]) -> None:
        """Nobody is reading, and there is no room for the first block that somebody needs: it will not come by waiting."""
        if self._flying or self._state[missing[0]] != _PENDING or self._fits(missing[0]):
            return
        self._urgent = [block for block in self._urgent if block not in missing]
        self._changed.notify_all()  # who else waits for one of them hurries it again
        raise OverBudget(
            "the next tensor does not fit: tensors returned before fill the budget", hint="drop them, or raise host_bytes"
        )

    def _candidate(self) -> int | None:
        while self._urgent and self._state[self._urgent[0]] != _PENDING:
            self._urgent.pop(0)
        if self._urgent:
            pending = (block for block in self._urgent if self._state[block] == _PENDING)
            return next(filter(self._fits, pending), self._urgent[0])
        self._next = self._state.find(_PENDING, self._next)
        if self._next < 0:
            self._next = len(self._state)
        return self._next if self._next < len(self._state) else None

    def _fits(self, block: int) -> bool:
        return self._room is None or self._room.fits(block)

    def _over(self) -> bool:
        return self._stopped or self._failure is not None
