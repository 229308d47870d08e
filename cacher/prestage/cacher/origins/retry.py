"""When a metadata call is sent again, and after how long. Pure: no clock, no sleep, no randomness of its own.

    delay = full jitter: uniform(0, min(cap, base * 2^n)), never less than what the server asked for
    stated by the server: Retry-After (seconds or a date), RateLimit: "api";r=0;t=55 (Hugging Face), x-ratelimit-reset-after

The rules end a call when its budget would be over before the next attempt could start: waiting 5 minutes because a server says
so is the caller's decision, not ours, and the error names the wait.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC

from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import ResponseHead

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524, 529, 598, 599})
"""Answers that pass: RFC 9110 and 6585, and what Cloudflare (52x), Azure (509) and overloaded gateways (529, 59x) add."""
CONGESTED = frozenset({429, 503, 509, 529})
"""Those that ask for less load."""
_UNREACHABLE = frozenset({"dns", "refused"})
_RATE_LIMIT = re.compile(r"\s*(?:\"[^\"]*\"|[A-Za-z*][\w.*-]*)\s*((?:;[^,;]*)*)")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class RetryRules:
    """Of one metadata call."""

    budget_s: float = 60.0
    """From the first attempt to the start of the last."""
    base_s: float = 0.25
    cap_s: float = 8.0
    unreachable_s: float = 8.0
    """Budget while nobody answers at all (no such host, connection refused): a restart passes in seconds, a typo never does."""

    def budget_for(self, failure: NetError | ResponseHead) -> float:
        """How long after its first attempt a call that failed so may still be sent again."""
        if isinstance(failure, NetError) and failure.reason in _UNREACHABLE:
            return min(self.unreachable_s, self.budget_s)
        return self.budget_s


@dataclass(frozen=True, slots=True)
class Wait:
    """Send again after so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not send again. `asked_s`: the wait that the server asked for, when that is the reason."""

    asked_s: float | None = None


def is_transient(failure: NetError | ResponseHead) -> bool:
    """True when the same request may succeed later."""
    if isinstance(failure, NetError):
        return failure.retryable
    return failure.status in TRANSIENT


def after_failure(
    failure: NetError | ResponseHead, *, failures: int, elapsed_s: float, now_s: float, draw: float, rules: RetryRules
) -> Wait | GiveUp:
    """What follows the `failures`-th failure (from 1) in a row.

    `now_s` is the wall clock (for dates in Retry-After), `draw` uniform in [0, 1).
    """
    if not is_transient(failure):
        return GiveUp()
    stated = stated_delay_s(failure.headers, now_s) if isinstance(failure, ResponseHead) else None
    jitter_s = draw * min(rules.cap_s, rules.base_s * 2 ** min(failures - 1, 20))
    delay_s = jitter_s if stated is None else stated + draw * rules.base_s
    if elapsed_s + delay_s > rules.budget_for(failure):
        return GiveUp(stated)
    return Wait(delay_s)


def stated_delay_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """The wait a server asks for, in seconds; None when it does not say. Garbage counts as silence."""
    stated = [_retry_after_s(headers.get("retry-after", ""), now_s), _rate_limit_s(headers.get("ratelimit", ""))]
    stated.append(_plain_s(headers.get("x-ratelimit-reset-after", "")))
    known = [seconds for seconds in stated if seconds is not None]
    return max(known) if known else None


def _plain_s(text: str) -> float | None:
    text = text.strip()
    return float(text) if _SECONDS.fullmatch(text) else None


def _retry_after_s(text: str, now_s: float) -> float | None:
    if (seconds := _plain_s(text)) is not None or not text:
        return seconds
    try:
        moment = email.utils.parsedate_to_datetime(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now_s)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _rate_limit_s(text: str) -> float | None:
    """`"api";r=0;t=55`, several joined by commas: the longest reset among the exhausted ones."""
    waits = []
    for part in text.split(","):
        found = _RATE_LIMIT.fullmatch(part)
        if found is None:
            continue
        values = dict(pair.strip().partition("=")[::2] for pair in found.group(1).split(";") if "=" in pair)
        left, reset = _plain_s(values.get("r", "0")), _plain_s(values.get("t", ""))
        if reset is not None and left == 0:
            waits.append(reset)
    return max(waits) if waits else None
