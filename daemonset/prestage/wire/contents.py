"""Content that came in the broker's answer itself, as a file that the engine reads like any other of this machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from prestage.api.brokerage import Fetch
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins.ports import FileRead


def as_request(fetch: Fetch, folder: Path) -> HttpRequest | FileRead:
    """What gets the file. `folder`: ours alone (0700), on whatever disk; who made it removes it after the stage.

    Raises:
        OSError: the content cannot be written there.
    """
    if fetch.body is None:
        return HttpRequest(fetch.url, fetch.headers)
    path = folder / hashlib.sha256(fetch.path.encode() + b"\0" + fetch.body).hexdigest()
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}.{id(fetch)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as out:
            out.write(fetch.body)
        fresh.replace(path)
    stat = path.stat()
    return FileRead(str(path), stat.st_size, stat.st_mtime_ns)
