"""Loads that `start` began and `open_model` has not yet taken over: at most one for each path."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

from prestage.loader.errors import Unsupported
from prestage.loader.model import Model
from prestage.loader.options import Options
from prestage.loader.report import say_unverified
from prestage.loader.running import Running
from prestage.loader.tensors import TORCH, model_framework

_waiting: dict[str, _Started] = {}
_lock = threading.Lock()


class _Started:
    """A load whose headers are read by a thread of its own, so that `start` costs its caller nothing."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._pid = os.getpid()
        self._running: Running | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._begin, name="prestage-loader-start", daemon=True)
        self._thread.start()

    def taken(self, options: Options) -> Running | None:
        """The load, if it is the one that `options` ask for; else it is dropped. None too where it is for a device that only a
        framework may know. Raises: what beginning it met."""
        if self._pid != os.getpid():
            return None
        self._join()
        if options != self.options:
            self.drop()
            return None
        if isinstance(self._failure, Unsupported) and not options.on_host:
            return None  # torch may know the device
        if self._failure:
            raise self._failure
        return self._running

    def drop(self) -> None:
        """Nobody wants it."""
        self._join()
        if self._running:
            self._running.close()

    def _join(self) -> None:
        """Until it has begun. Interrupted, it is dropped all the same."""
        try:
            self._thread.join()
        except BaseException:
            threading.Thread(target=self.drop, name="prestage-loader-drop", daemon=True).start()
            raise

    def _begin(self) -> None:
        try:
            self._running = Running(self.options)
        except BaseException as exc:  # noqa: BLE001 - the thread's edge: `open_model` raises it
            self._failure = exc


def begin(options: Options) -> None:
    """Begin in the background; what was begun before for the same path is dropped."""
    with _lock:
        before = _waiting.pop(options.path, None)
        _waiting[options.path] = _Started(options)
    if before:
        before.drop()


def opened(options: Options, framework: str, dtype: object) -> Model:
    """The model, by what `start` began where that fits.

    Raises:
        as `open_model`.
    """
    maker = model_framework(framework, options.device)
    with _lock:
        waiting = _waiting.pop(options.path, None)
    running = (waiting.taken(options) if waiting else None) or _running(options, framework)
    try:
        model = Model(running, maker, dtype)
    except BaseException:
        running.close()
        raise
    if options.verify == "auto":
        for shard in running.plan.checkpoint.shards:
            if shard.sums is None:
                say_unverified(shard.path)
    return model


def _running(options: Options, framework: str) -> Running:
    """To CUDA by the driver, in torch's memory where torch will show it; to what only torch knows by way of the host."""
    if options.on_host or framework not in TORCH:
        return Running(options)
    from prestage.loader.memory import cuda
    from prestage.loader.torch_tensors import TorchMemory, cuda_index

    try:
        index = cuda_index(options.device)
        cuda.driver(index)
    except (Unsupported, RuntimeError):
        return Running(replace(options, device="cpu"))
    return Running(replace(options, device=index), TorchMemory(index))
