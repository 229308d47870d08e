"""What a registry asks of whom it does not know: WWW-Authenticate, and the token it then gets elsewhere. Pure.

WWW-Authenticate: Bearer realm="https://auth.example/token",service="registry.example",scope="repository:team/app:pull"
WWW-Authenticate: Basic realm="registry"
token answer: {"token" or "access_token": "…", "expires_in": 300}
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from prestage.cacher.errors import Corrupt, Denied

DEFAULT_LIFE_S = 60.0
"""Of a token that says nothing of it (distribution's token specification)."""
MAX_LIFE_S = 3600.0
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PAIR = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))\s*')
_SCHEME = re.compile(rf"\s*({_WORD})(?:\s+|$)")
_MAX_CHARS = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in."""

    scheme: str
    """Lower-case."""
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token: a secret."""

    text: str
    life_s: float


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """All ways in; what cannot be read is left out."""
    found: list[Challenge] = []
    rest = header[:_MAX_CHARS]
    while rest and (scheme := _SCHEME.match(rest)):
        rest = rest[scheme.end() :]
        parameters: dict[str, str] = {}
        while pair := _PAIR.match(rest):
            value = pair.group(3) if pair.group(2) is None else re.sub(r"\\(.)", r"\1", pair.group(2))
            parameters.setdefault(pair.group(1).lower(), value)
            rest = rest[pair.end() :]
            if not rest.startswith(","):
                break
            rest = rest[1:]
        found.append(Challenge(scheme.group(1).lower(), parameters))
        rest = rest.lstrip(", ")
    return tuple(found)


def choose(challenges: tuple[Challenge, ...]) -> Challenge | None:
    """Bearer before Basic; None where there is neither."""
    for scheme in ("bearer", "basic"):
        for one in challenges:
            if one.scheme == scheme and (scheme == "basic" or one.parameters.get("realm")):
                return one
    return None


def token_url(challenge: Challenge, repository: str, *, registry_is_tls: bool) -> str:
    """Where a token for pulling from `repository` is asked for: that scope and no other, whatever the registry wishes.

    Raises:
        Denied: the realm is no URL that a password may be sent to.
    """
    try:
        realm = urllib.parse.urlsplit(challenge.parameters.get("realm", ""))
        port_is_right = realm.port is None or realm.port > 0
    except ValueError:
        realm, port_is_right = urllib.parse.urlsplit(""), False
    allowed = ("https",) if registry_is_tls else ("https", "http")
    if realm.scheme not in allowed or not realm.hostname or realm.username is not None or not port_is_right:
        raise Denied("the registry names no proper place for tokens", hint="its realm must be an https:// URL")
    query = urllib.parse.parse_qsl(realm.query)
    if service := challenge.parameters.get("service"):
        query.append(("service", service))
    query.append(("scope", f"repository:{repository}:pull"))
    return urllib.parse.urlunsplit((realm.scheme, realm.netloc, realm.path or "/", urllib.parse.urlencode(query), ""))


def parse_token(raw: bytes) -> Token:
    """Read a token server's answer.

    Raises:
        Corrupt: it has no token.
    """
    try:
        doc = json.loads(raw)
    except (ValueError, RecursionError):
        doc = None
    text = (doc.get("token") or doc.get("access_token")) if isinstance(doc, dict) else None
    if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]{1,65536}", text):
        raise Corrupt("the registry's token server gave no token", hint="is there a proxy in between?")
    assert isinstance(doc, dict)
    stated = doc.get("expires_in")
    if isinstance(stated, bool) or not isinstance(stated, (int, float)) or not 0 < stated < 1e9:
        return Token(text, DEFAULT_LIFE_S)
    return Token(text, min(float(stated), MAX_LIFE_S))
