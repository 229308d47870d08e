"""Passwords for registries, as Docker's config.json and pull Secrets (`.dockerconfigjson`) hold them. Pure.

    {"auths": {"registry.example": {"auth": "<base64 of user:password>"}, "registry.example/team": {"username", "password"}}}

Which entry is an image's: as the kubelet finds it. The host must match, part by part where it has `*`; a path must be a prefix;
the longest path wins. Keys may begin with https:// and end in /v1/ or /v2/.
"""

from __future__ import annotations

import fnmatch
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

from prestage.cacher.errors import Misconfigured
from prestage.images.names import ImageName

_DOCKER_KEYS = ("index.docker.io", "docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Login:
    """A user and what proves him."""

    user: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header: a secret."""
        return f"Basic {b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class Logins:
    """What one file holds."""

    entries: tuple[tuple[str, str, Login], ...] = ()
    """Host (with port), path, login."""

    def of(self, name: ImageName) -> Login | None:
        """The one for `name`."""
        fitting = [(path, login) for host, path, login in self.entries if _fits(host, path, name)]
        return max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else None


def parse_logins(raw: bytes, source: str) -> Logins:
    """Read a config; entries without a password (credential helpers) are left out.

    Raises:
        Misconfigured: not such a file. The message never quotes it.
    """
    try:
        doc = json.loads(raw)
    except (ValueError, RecursionError):
        doc = None
    auths = doc.get("auths", {}) if isinstance(doc, dict) else None
    if not isinstance(auths, dict):
        raise Misconfigured(f"{source} is no Docker config", hint='it has the form {"auths": {"registry": {"auth": "…"}}}')
    found: list[tuple[str, str, Login]] = []
    for key, row in auths.items():
        login = _login(row, source) if isinstance(row, dict) else None
        if login is not None:
            host, _, path = _place(key).partition("/")
            found.append((host.lower(), path.strip("/"), login))
    return Logins(tuple(found))


def _login(row: dict[str, object], source: str) -> Login | None:
    auth, user, password = row.get("auth"), row.get("username"), row.get("password")
    if isinstance(auth, str) and auth:
        try:
            user, colon, password = b64decode(auth, validate=True).decode().partition(":")
        except ValueError:  # binascii.Error and UnicodeDecodeError among them
            raise Misconfigured(f"{source} has an auth that is not base64", hint="log in again") from None
        if not colon:
            raise Misconfigured(f"{source} has an auth without a colon", hint="log in again")
        password = password.rstrip("\0")
    if not isinstance(user, str) or not isinstance(password, str) or not user:
        return None
    if not f"{user}{password}".isprintable():
        raise Misconfigured(f"{source} has a login with control characters", hint="log in again")
    return Login(user, password)


def _place(key: str) -> str:
    place = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    for version in ("/v1", "/v2"):
        place = place.removesuffix(version)
    return place


def _fits(host: str, path: str, name: ImageName) -> bool:
    if host in _DOCKER_KEYS and name.registry == "docker.io":
        return not path or f"{name.repository}/".startswith(f"{path}/")
    wanted, patterns = name.registry.lower().split("."), host.split(".")
    if len(wanted) != len(patterns) or not all(map(fnmatch.fnmatchcase, wanted, patterns)):
        return False
    return not path or f"{name.repository}/".startswith(f"{path}/")
