"""What an answer means. Pure: a head and the first bytes of its body in, a verdict or a reason out.

To a range request the right answer is 206 (or 200 for a whole file); the rest:

    301 302 303 307 308   the signed URL or the redirect is stale     -> REFRESH
    412, 416              another version than was pinned             -> CHANGED
    408 429 5xx …         passes                                      -> RETRY, congested for 429 and 503
    401 403 404 410 …     means something else at every origin        -> that origin's own table

What a server says about itself is shown to people: `said` makes it one short line without control characters.
"""

from __future__ import annotations

import json
import re

from prestage.cacher.errors import Denied
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.ports import Next, Verdict
from prestage.cacher.origins.retry import CONGESTED, TRANSIENT, stated_delay_s

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_SAID = 160
_CODE = re.compile(rb"<Code>([^<]{1,100})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,1000})</Message>")
_URL_QUERY = re.compile(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*")


class OurFault(Denied):
    """Denied for a reason on this side: its clock, an address that it may not go to. Nothing was said of the credential."""


def common_verdict(path: str, head: ResponseHead, body: bytes, now_s: float) -> Verdict | None:
    """The verdict that is the same at every origin, None where it is the origin's own to decide."""
    why = f"{path}: the server answered {head.status}{_tail(said(head, body))}"
    if head.status in REDIRECTS:
        return Verdict(Next.REFRESH, f"{path}: the server redirects ({head.status})")
    if head.status == 412:
        return Verdict(Next.CHANGED, f"{path} is not the version any more that was resolved")
    if head.status == 416:
        return Verdict(Next.CHANGED, f"{path} is shorter now than when it was resolved")
    if head.status in TRANSIENT:
        after_s = stated_delay_s(head.headers, now_s)
        return Verdict(Next.RETRY, why, after_s=after_s, congested=head.status in CONGESTED)
    return None


def error_code(head: ResponseHead, body: bytes) -> str:
    """The machine-readable reason: S3's `<Code>`, the Hub's X-Error-Code; empty when there is none."""
    if code := head.headers.get("x-error-code"):
        return _line(code)
    found = _CODE.search(body)
    return _line(found.group(1).decode("utf-8", "replace")) if found else ""


def said(head: ResponseHead, body: bytes) -> str:
    """What the server says about itself, one line of at most 160 characters; empty when it says nothing readable."""
    if message := head.headers.get("x-error-message"):
        return _line(message)
    if found := _MESSAGE.search(body):
        code = error_code(head, body)
        message = found.group(1).decode("utf-8", "replace")
        return _line(f"{code}: {message}" if code else message)
    if body[:1] == b"{":
        try:
            error = json.loads(body).get("error", "")
        except (ValueError, AttributeError, RecursionError):
            return ""
        return _line(error) if isinstance(error, str) else ""
    return ""


def _tail(text: str) -> str:
    return f" ({text})" if text else ""


def _line(text: str) -> str:
    """One line that is safe to print: no control characters, no query of a URL (it may be a signature)."""
    shown = "".join(c if c.isprintable() else " " for c in _URL_QUERY.sub(r"\1", text[:2000]))
    shown = " ".join(shown.split())
    return shown if len(shown) <= _MAX_SAID else shown[: _MAX_SAID - 3] + "..."
