"""Names of images: a ref as users write it (`oci://…`), and an image as pods do. Pure.

    oci://registry[:port]/repository[:tag][@sha256:<64 hex>]     the registry is always said
    nginx, team/app:1, ghcr.io/org/app@sha256:…                   as in a pod: docker.io, library/ and latest are implied

Names, tags and digests by the OCI distribution specification. A digest pins what is meant; a tag beside it says nothing more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from prestage.cacher.errors import Misconfigured

OciDigest = NewType("OciDigest", str)
"""`sha256:<64 lower-case hex>` of an index, a manifest, a config or a layer. Of private images it is a secret: never logged."""

SCHEME = "oci://"
EXAMPLE = "oci://registry.example/team/engine:1.2 or oci://registry.example/team/engine@sha256:…"
_DOCKER, _DOCKER_API = "docker.io", "registry-1.docker.io"
_MAX_CHARS = 4096
_MAX_REPOSITORY_CHARS = 255
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageName:
    """One image at one registry."""

    registry: str
    """Host and, where it was said, port; IPv6 in brackets."""
    repository: str
    tag: str | None = None
    digest: OciDigest | None = None

    @property
    def reference(self) -> str:
        """What is asked of the registry: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def api_host(self) -> str:
        """Where its registry answers."""
        return _DOCKER_API if self.registry == _DOCKER else self.registry

    @property
    def is_loopback(self) -> bool:
        """A registry on this machine: spoken to without TLS, as container runtimes do."""
        host = host_of(self.registry)
        return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None

    def __str__(self) -> str:
        """As it stands in a pod; `oci://` before it makes it a ref."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def host_of(registry: str) -> str:
    """Without port and brackets, lower-case."""
    host = registry[: registry.index("]") + 1] if registry.startswith("[") and "]" in registry else registry.partition(":")[0]
    return host.strip("[]").lower()


def parse_oci(text: str) -> ImageName:
    """Read a ref.

    Raises:
        Misconfigured: what is wrong with it and what a right one looks like.
    """
    if not text.startswith(SCHEME):
        raise _wrong(text, "is not an image's ref")
    registry, slash, rest = text.removeprefix(SCHEME).partition("/")
    if not slash or not _REGISTRY.fullmatch(registry):
        raise _wrong(text, "names no registry")
    return _name(text, registry, rest)


def parse_in_pod(text: str) -> ImageName:
    """Read what stands in a container's `image`, the way container runtimes complete it.

    Raises:
        Misconfigured: it names no image.
    """
    first, slash, rest = text.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    registry, path = (first, rest) if has_registry else (_DOCKER, text)
    if registry in ("index.docker.io", _DOCKER):
        registry = _DOCKER
        path = path if "/" in path else f"library/{path}"
    if not _REGISTRY.fullmatch(registry):
        raise _wrong(text, "names no registry")
    return _name(text, registry, path)


def parse_digest(text: str) -> OciDigest:
    """A digest, checked.

    Raises:
        Misconfigured: another algorithm than sha256, or not a digest.
    """
    if not _DIGEST.fullmatch(text):
        raise Misconfigured(f"{text[:80]!r} is not a digest we can check", hint="images are pinned by sha256: and 64 hex digits")
    return OciDigest(text)


def _name(text: str, registry: str, rest: str) -> ImageName:
    body, at, digest = rest.partition("@")
    repository, colon, tag = body.partition(":")
    if len(text) > _MAX_CHARS or not _REPOSITORY.fullmatch(repository) or len(repository) > _MAX_REPOSITORY_CHARS:
        raise _wrong(text, "names no repository")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, "has a tag that cannot be one")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, "has a digest that is not sha256: and 64 hex digits")
    if not tag and not at:
        tag = "latest"
    return ImageName(registry, repository, tag or None, OciDigest(digest) if at else None)


def _wrong(text: str, why: str) -> Misconfigured:
    shown = text if len(text) <= 200 else text[:197] + "..."
    return Misconfigured(f"{shown!r} {why}", hint=f"write {EXAMPLE}")
