"""The agent's log: one JSON object a line on stderr. `event` is a constant name, everything else is a field; never a secret."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, PayloadEncodingError

_LOGGER = logging.getLogger("prestage")


class JsonLines(logging.Formatter):
    """A record as one line: time (RFC 3339, UTC), level, event, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


class Lines(logging.Formatter):
    """The same for a person: `12:00:01 staged artifact=sha256:… seconds=1.2`."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what a client did wrong: it was answered 400, and a flood of it must not fill the log with tracebacks."""
    exc = record.exc_info[1] if record.exc_info else None
    return not isinstance(exc, (HttpProcessingError, PayloadEncodingError, web.RequestPayloadError))


def set_up(*, as_json: bool, stream: TextIO | None = None) -> None:
    """Log to `stream` (default stderr), warnings of libraries too."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Lines())
    handler.addFilter(_is_ours)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)


def log(
    event: str, *, level: int = logging.INFO, exc: BaseException | None = None, fields: Mapping[str, object] | None = None
) -> None:
    """One line. `event` is a constant name; fields that are None are left out."""
    told = {name: value for name, value in (fields or {}).items() if value is not None}
    _LOGGER.log(level, event, extra={"fields": told}, exc_info=exc)
