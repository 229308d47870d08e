"""Threads that the system may refuse: a limit of processes is met, for a moment or until somebody raises it."""

from __future__ import annotations

import threading

from prestage.cacher.errors import Unavailable


def start(thread: threading.Thread) -> None:
    """Begin.

    Raises:
        Unavailable: the system gives no thread.
    """
    try:
        thread.start()
    except RuntimeError as exc:
        raise Unavailable(f"the system gives no thread: {exc}", hint="raise the limit of processes: pids.max") from exc
