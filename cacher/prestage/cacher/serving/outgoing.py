"""An answer on its way out: head, then a small body or a file's bytes, as much at a time as the socket takes."""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from contextlib import suppress
from enum import Enum

from prestage.cacher.serving.answers import Answer
from prestage.cacher.serving.sending import STEP_BYTES, is_resident, send_cold_step, send_step
from prestage.cacher.serving.tree import Tree

_SOUND_BYTES = 16 << 20
"""How much is sent before looking again whether the blob was quarantined."""
_WINDOW_BYTES = 2 * STEP_BYTES
"""How much is taken for resident when its first and its last byte are."""


class Step(Enum):
    """What comes next."""

    DONE = "done"
    FULL = "full"
    """When the socket is writable again."""
    COLD = "cold"
    """`cold_step`, in a thread that may wait for the disk."""
    BROKEN = "broken"
    """The file was quarantined or is shorter than it was: the peer must not take what it has for whole."""


class Outgoing:
    """One answer to one peer. Owns the answer's content: close it. One thread at a time; the socket stays the caller's."""

    def __init__(self, sock: socket.socket, head: bytes, answer: Answer, *, with_body: bool) -> None:
        self._sock, self._content = sock, answer.content
        self._out, self._rest = memoryview(head), memoryview(answer.body if with_body else b"")
        if not with_body:
            self.close()
        self._at = self._content.start if self._content is not None else 0
        self._sound_until, self._warm_until = self._at + _SOUND_BYTES, 0
        self.sent_bytes = 0
        """All that the kernel took."""

    @property
    def taken_bytes(self) -> int:
        """What the peer's kernel has acknowledged: a socket's buffer hides a reader that takes nothing."""
        waiting = array.array("i", [0])
        with suppress(OSError):
            fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, waiting)
        return self.sent_bytes - waiting[0]

    @property
    def is_done(self) -> bool:
        """Everything is with the kernel."""
        return not self._out and not self._rest and (self._content is None or self._at == self._content.stop)

    def send_small(self) -> bool:
        """Head and small body; False when the socket takes no more of them now.

        Raises:
            OSError: the peer is gone.
        """
        while self._out:
            more = socket.MSG_MORE if self._content is not None or self._rest else 0
            try:
                count = self._sock.send(self._out, more)
            except BlockingIOError:
                return False
            self.sent_bytes += count
            self._out = self._out[count:]
            if not self._out:
                self._out, self._rest = self._rest, self._out
        return True

    def step(self, size_bytes: int, tree: Tree) -> tuple[Step, int]:
        """At most `size_bytes` of the file's bytes, if they need not be waited for; how many went.

        Raises:
            OSError: the peer is gone.
        """
        content = self._content
        if content is None or self._at == content.stop:
            return Step.DONE, 0
        if self._at >= self._sound_until:
            self._sound_until = self._at + _SOUND_BYTES
            if not tree.is_sound(content):
                return Step.BROKEN, 0
        size_bytes = min(size_bytes, content.stop - self._at)
        if self._at + size_bytes > self._warm_until:
            end = min(self._at + _WINDOW_BYTES, content.stop)
            if not is_resident(content.fd, self._at) or not is_resident(content.fd, end - 1):
                return Step.COLD, 0
            self._warm_until = end
        return self.went(send_step(self._sock.fileno(), content.fd, self._at, size_bytes))

    def cold_step(self, size_bytes: int) -> int | None:
        """The same from the disk; `went` takes the outcome. Touches nothing but the descriptors."""
        assert self._content is not None
        stop = self._content.stop
        return send_cold_step(self._sock.fileno(), self._content.fd, self._at, min(size_bytes, stop - self._at), stop)

    def went(self, count: int | None) -> tuple[Step, int]:
        """So many of the file's bytes went; None: the socket took none."""
        if count is None:
            return Step.FULL, 0
        self._at += count
        self.sent_bytes += count
        if count == 0:
            return Step.BROKEN, 0
        return (Step.DONE if self.is_done else Step.FULL), count

    def close(self) -> None:
        """Idempotent."""
        if self._content is not None:
            self._content.close()
            self._content = None
