"""How the broker says no: one Refusal for every error, with a code and a next step."""

from __future__ import annotations

from typing import Final

from prestage.api.brokerage import Refusal
from prestage.api.nodes import ErrorClass
from prestage.cacher.errors import (
    Busy,
    Corrupt,
    Denied,
    Full,
    Misconfigured,
    NotFound,
    PrestageError,
    Unavailable,
)
from prestage.cacher.origins.asking import AskedToWait
from prestage.kube.errors import Conflict, Forbidden, Gone, Invalid, Missing, TooMany, Unreachable

_OF_ORIGINS: Final[tuple[tuple[type[PrestageError], ErrorClass, str], ...]] = (
    (Misconfigured, ErrorClass.MISCONFIGURED, "CannotResolve"),
    (NotFound, ErrorClass.NOT_FOUND, "NoSuchSource"),
    (Denied, ErrorClass.DENIED, "OriginRefused"),
    (Corrupt, ErrorClass.CORRUPT, "OriginCorrupt"),
    (Busy, ErrorClass.BUSY, "Busy"),
    (Full, ErrorClass.FULL, "Full"),
    (Unavailable, ErrorClass.UNAVAILABLE, "OriginUnavailable"),
)
_OF_THE_API_SERVER: Final = (Conflict, Forbidden, Gone, Invalid, Missing, TooMany, Unreachable)


class No(Exception):
    """A decision of ours, with its own code."""

    def __init__(
        self,
        error_class: ErrorClass,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.refusal = Refusal(error_class=error_class, code=code, message=message, hint=hint, retry_after_s=retry_after_s)


def denied(code: str, message: str, hint: str | None = None) -> No:
    """Get another grant, or other credentials."""
    return No(ErrorClass.DENIED, code, message, hint=hint)


def misconfigured(code: str, message: str, hint: str | None = None) -> No:
    """Write it otherwise."""
    return No(ErrorClass.MISCONFIGURED, code, message, hint=hint)


def refusal_for(error: Exception) -> Refusal | None:
    """What the caller is told; None: a fault of ours, to be logged whole and told as Bug.

    What the API server refuses us is not the caller's fault: it may ask again.
    """
    if isinstance(error, No):
        return error.refusal
    if isinstance(error, _OF_THE_API_SERVER):
        hint = "see the broker's log" if isinstance(error, Forbidden | Invalid) else None
        said = "the API server refuses the broker" if isinstance(error, Forbidden | Invalid) else "the API server is busy or away"
        return Refusal(error_class=ErrorClass.UNAVAILABLE, code="ApiServer", message=said, hint=hint, retry_after_s=1.0)
    for kind, error_class, code in _OF_ORIGINS:
        if isinstance(error, kind) and isinstance(error, PrestageError):
            after_s = error.after_s if isinstance(error, AskedToWait) else None
            return Refusal(error_class=error_class, code=code, message=error.message, hint=error.hint, retry_after_s=after_s)
    return None
