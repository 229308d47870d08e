"""Serving: the listening socket, the worker processes, what they count. What the agent holds.

    with Serving(ServingConfig(root=root, token_file=token, port=7070)) as serving: ...

A worker that ends is started again, after 0.1 s, then twice as long each time up to 5 s; one that ran for 10 s is forgiven.
The listening socket belongs to this process: connections that wait in it survive a worker.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from prestage.cacher.errors import Misconfigured, Unavailable
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.serving.counters import Counters, Row, ServingStats
from prestage.cacher.serving.tokens import Tokens
from prestage.cacher.serving.tree import Tree

_BACKLOG = 1024
_START_S = 20.0
_BACKOFF_S, _BACKOFF_CAP_S, _FORGIVEN_S = 0.1, 5.0, 10.0
_LOOK_S = 0.05


@dataclass(slots=True)
class _Slot:
    """The place of one worker."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    not_before: float = 0.0
    backoff_s: float = _BACKOFF_S


@dataclass(slots=True)
class Serving:
    """See the module. `start` once, `stop` once; both from any thread."""

    config: ServingConfig
    _listener: socket.socket | None = None
    _counters: Counters | None = None
    _slots: list[_Slot] = field(default_factory=list)
    _thread: threading.Thread | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _drain_s: float = 5.0
    _restarts: int = 0
    _last: ServingStats | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Of `_counters`: `stats` may be asked while `stop` runs."""

    def __enter__(self) -> Serving:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen and start the workers; blocks until all of them accept.

        Raises:
            Misconfigured: the address cannot be had, the token file holds none, or the store must not be touched.
            NotFound: no store there.
            Unavailable: a worker did not come up.
        """
        Tree(self.config.root)
        Tokens(self.config.token_file).check()
        self._listener = _listen(self.config)
        self._counters = Counters.create(self.config.workers)
        self.set_rate(self.config.rate_bytes_per_s)
        self._slots = [_Slot(number) for number in range(self.config.workers)]
        # PR_SET_PDEATHSIG fires when the thread ends that started the process: this one lives as long as the workers.
        self._thread = threading.Thread(target=self._supervise, name="prestage-serving", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while sum(self._counters.column(Row.READY)) < self.config.workers:
            if time.monotonic() > deadline:
                self.stop(0.0)
                raise Unavailable("the workers that serve blobs did not start", hint="their own words are on stderr")
            time.sleep(0.01)

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._listener is None:
            raise Misconfigured("serving was not started", hint="call start()")
        return int(self._listener.getsockname()[1])

    def set_rate(self, bytes_per_s: float | None) -> None:
        """Change the upload cap over all workers; None for none. At once, also for what runs."""
        with self._lock:
            if self._counters is not None:
                self._counters.rate_bytes_per_s = max(1, int(bytes_per_s)) if bytes_per_s is not None else 0

    def stats(self) -> ServingStats:
        """What was served so far; costs a few reads of memory. After `stop`, what it was at the end."""
        with self._lock:
            if self._counters is not None:
                return self._counters.sums(self._restarts)
            return self._last or ServingStats(0, 0, 0, 0, 0, 0)

    def stop(self, drain_s: float = 5.0) -> None:
        """Take nothing new, let what runs finish for `drain_s`, then end. Idempotent."""
        self._drain_s = drain_s
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        with self._lock:
            if self._counters is not None:
                self._last = self._counters.sums(self._restarts)
                self._counters.close()
                self._counters = None

    # -- the supervising thread

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            for slot in self._slots:
                self._look_after(slot, now)
            self._stopping.wait(_LOOK_S)
        for slot in self._slots:
            _signal(slot, signal.SIGTERM)
        deadline = time.monotonic() + self._drain_s
        for slot in self._slots:
            if slot.process is not None:
                try:
                    slot.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    _signal(slot, signal.SIGKILL)
                    slot.process.wait()
                self._clear(slot)

    def _look_after(self, slot: _Slot, now: float) -> None:
        if slot.process is not None:
            if slot.process.poll() is None:
                return
            self._clear(slot)
            self._restarts += 1
            slot.process = None
            slot.backoff_s = _BACKOFF_S if now - slot.began > _FORGIVEN_S else min(slot.backoff_s * 2, _BACKOFF_CAP_S)
            slot.not_before = now + slot.backoff_s
        if now >= slot.not_before:
            slot.began = now
            try:
                slot.process = self._spawn(slot.number)
            except OSError:
                slot.not_before = now + _BACKOFF_CAP_S  # no memory, no processes left: that passes

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        assert self._listener is not None
        assert self._counters is not None
        fds = (self._listener.fileno(), self._counters.fd)
        command = [sys.executable, "-m", "prestage.cacher.serving.worker", "--config", self.config.to_json()]
        command += ["--listener", str(fds[0]), "--counters", str(fds[1]), "--number", str(number), "--parent", str(os.getpid())]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds)  # noqa: S603 - our own module

    def _clear(self, slot: _Slot) -> None:
        """What a worker that has ended cannot say itself."""
        assert self._counters is not None
        self._counters.put(slot.number, Row.ACTIVE, 0)
        self._counters.put(slot.number, Row.READY, 0)


def _signal(slot: _Slot, number: signal.Signals) -> None:
    if slot.process is not None:
        with suppress(ProcessLookupError):
            slot.process.send_signal(number)


def _listen(config: ServingConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        both = config.host == "::"
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as exc:
        where = f"{config.host} port {config.port}"
        raise Misconfigured(f"cannot listen on {where}: {exc.strerror or exc}", hint="choose another address or port") from exc
