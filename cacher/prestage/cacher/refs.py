"""Refs: how a user names an artifact. Parsing and canonical text, nothing else. Pure.

    hf://org/name[@revision]              a Hugging Face repository; revision: branch, tag or commit, default main
    s3://bucket/prefix/                   every object below the prefix (the slash at the end says so)
    s3://bucket/key[?versionId=ID]        one object, or one version of it
    https://host[:port]/path[#sha256=HEX] one file; a query is sent but never stored or printed
    file:///path                          a file or a directory on this machine

A ref of any scheme may end in `@sha256:<artifact>`: then it resolves to that artifact or fails. `@` and `,` are legal in
object keys, so only this exact form is a pin, and lists of refs are separated by newlines or white space.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId, Digest, artifact_id
from prestage.cacher.errors import Misconfigured

_PIN = re.compile(r"@(sha256:[0-9a-f]{64})$")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_AWKWARD = re.compile(r"[%\s]")
"""What a ref cannot hold as it is."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_MAX_REF_CHARS = 8192
LATER_SCHEMES = ("oci", "gs", "az")
EXAMPLES = "hf://org/name@main, s3://bucket/prefix/, https://host/file, file:///dir"


@dataclass(frozen=True, slots=True)
class HfRef:
    """A Hugging Face model repository at a revision that may move (branch) or not (commit)."""

    repo: str
    revision: str = "main"
    pin: ArtifactId | None = None

    @property
    def name(self) -> str:
        """Canonical text without pin: what the store remembers and prints."""
        return f"hf://{self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True)
class S3Ref:
    """One object (`key`), or every object below a prefix (`key` empty or ending in a slash)."""

    bucket: str
    key: str
    version_id: str | None = None
    pin: ArtifactId | None = None

    @property
    def is_prefix(self) -> bool:
        """True when this names every object below `key`."""
        return not self.key or self.key.endswith("/")

    @property
    def name(self) -> str:
        """Canonical text without pin."""
        version = f"?versionId={urllib.parse.quote(self.version_id, safe='')}" if self.version_id else ""
        return f"s3://{self.bucket}/{self.key}{version}"


@dataclass(frozen=True, slots=True)
class HttpRef:
    """One file behind a plain HTTP(S) URL. `query` is sent, never stored: it may be a signature."""

    scheme: str
    host: str
    """Host and, if it is not the scheme's default, port; IPv6 in brackets."""
    path: str
    """Percent-encoded, starts with a slash."""
    query: str = ""
    sha256: Digest | None = None
    pin: ArtifactId | None = None

    @property
    def url(self) -> str:
        """What is requested, query included. Never print or store it."""
        return f"{self.scheme}://{self.host}{self.path}" + (f"?{self.query}" if self.query else "")

    @property
    def name(self) -> str:
        """Canonical text without query and pin."""
        return f"{self.scheme}://{self.host}{self.path}"


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file or a directory on this machine, absolute."""

    path: str
    pin: ArtifactId | None = None

    @property
    def name(self) -> str:
        """Canonical text without pin."""
        return f"file://{_AWKWARD.sub(lambda found: urllib.parse.quote(found.group()), self.path)}"


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """An artifact by its own name: where its bytes come from is for others to know. `parse_ref` never gives one."""

    artifact: ArtifactId

    @property
    def pin(self) -> ArtifactId:
        """Itself."""
        return self.artifact

    @property
    def name(self) -> str:
        """The artifact."""
        return self.artifact


NamedRef = HfRef | S3Ref | HttpRef | FileRef
"""What a user may write."""
Ref = NamedRef | ArtifactRef


def text_of(ref: Ref, *, with_query: bool = True) -> str:
    """What `parse_ref` reads as this very ref. With a query it may carry a signature: then it is to be sent, never kept."""
    text = ref.name
    if isinstance(ref, ArtifactRef):
        return text
    if isinstance(ref, HttpRef):
        text = ref.url if with_query else ref.name
        text += f"#{ref.sha256.replace(':', '=')}" if ref.sha256 else ""
    return f"{text}@{ref.pin}" if ref.pin else text


def parse_wanted(text: str) -> Ref:
    """A ref, or an artifact by its own name.

    Raises:
        Misconfigured: neither.
    """
    return ArtifactRef(artifact_id(text)) if text.startswith("sha256:") else parse_ref(text)


def parse_ref(text: str) -> NamedRef:
    """Read a ref as a user wrote it.

    Raises:
        Misconfigured: what is wrong with it and what a right one looks like, on one line.
    """
    if not text or len(text) > _MAX_REF_CHARS or any(c.isspace() or not c.isprintable() for c in text):
        raise Misconfigured(f"{_shown(text)} is not a ref", hint=f"write one of {EXAMPLES}")
    body, pin = text, None
    if found := _PIN.search(text):
        body, pin = text[: found.start()], ArtifactId(found.group(1))
    scheme, separator, rest = body.partition("://")
    if not separator:
        raise Misconfigured(f"{_shown(text)} has no scheme", hint=f"write one of {EXAMPLES}")
    if scheme == "hf":
        return _hf(text, rest, pin)
    if scheme == "s3":
        return _s3(text, rest, pin)
    if scheme in ("http", "https"):
        return _http(text, body, pin)
    if scheme == "file":
        return _file(text, rest, pin)
    if scheme in LATER_SCHEMES:
        raise Misconfigured(f"{scheme}:// is not supported by this version", hint=f"supported: {EXAMPLES}")
    raise Misconfigured(f"unknown scheme {_shown(scheme)} in {_shown(text)}", hint=f"write one of {EXAMPLES}")


def _hf(text: str, rest: str, pin: ArtifactId | None) -> HfRef:
    repo, at, revision = rest.partition("@")
    if not _REPO.fullmatch(repo) or ".." in repo or (at and not revision) or ".." in revision:
        raise Misconfigured(f"{_shown(text)} is not a Hugging Face ref", hint="write hf://org/name or hf://org/name@revision")
    return HfRef(repo, revision or "main", pin)


def _s3(text: str, rest: str, pin: ArtifactId | None) -> S3Ref:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise Misconfigured(f"{_shown(text)} names no bucket", hint="write s3://bucket/prefix/ or s3://bucket/key")
    key, _, query = key.partition("?versionId=")
    version = urllib.parse.unquote(query) or None
    ref = S3Ref(bucket, key, version, pin)
    if version and ref.is_prefix:
        raise Misconfigured(f"{_shown(text)} asks for one version of a prefix", hint="versionId goes with a single object")
    return ref


def _http(text: str, body: str, pin: ArtifactId | None) -> HttpRef:
    try:
        parts = urllib.parse.urlsplit(body)
        port = parts.port
    except ValueError as exc:
        raise Misconfigured(f"{_shown(text)} is not a URL: {exc}", hint="write https://host/path") from exc
    if not parts.hostname or parts.path in ("", "/"):
        raise Misconfigured(f"{_shown(text)} names no file", hint="write https://host/path/file")
    if parts.username is not None:
        raise Misconfigured("a URL with a password in it would be kept in logs", hint="use a netrc file instead")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port and port != {"http": 80, "https": 443}[parts.scheme]:
        host = f"{host}:{port}"
    path = urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    return HttpRef(parts.scheme, host, path, parts.query, _stated_sha256(text, parts.fragment), pin)


def _stated_sha256(text: str, fragment: str) -> Digest | None:
    if not fragment:
        return None
    value = fragment.removeprefix("sha256=").lower()
    if not fragment.startswith("sha256=") or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise Misconfigured(f"{_shown(text)} has an unknown fragment", hint="a fragment states a digest: #sha256=<64 hex digits>")
    return Digest(f"sha256:{value}")


def _file(text: str, rest: str, pin: ArtifactId | None) -> FileRef:
    path = urllib.parse.unquote(rest.removeprefix("localhost"))
    if not path.startswith("/") or "\0" in path or "/../" in f"{path}/":
        raise Misconfigured(f"{_shown(text)} is not an absolute path", hint="write file:///absolute/path")
    return FileRef(path.rstrip("/") or "/", pin)


def _shown(text: str) -> str:
    """A user's text, short and without what may be a secret (query, userinfo)."""
    bare = re.sub(r"//[^/@]*:[^/@]*@", "//***@", text.partition("?")[0])
    return repr(bare if len(bare) <= 120 else bare[:117] + "...")
