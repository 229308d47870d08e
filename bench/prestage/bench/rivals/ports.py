"""What a rival is: a way to get one object into a folder with a command line. Run, measured and verified by `fetch.py`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class S3Object:
    """Where an S3 client finds the object."""

    endpoint: str
    bucket: str
    key: str
    signed: bool
    """False: anonymous requests."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to fetch, and how hard."""

    ref: str
    """As given: http(s):// or s3://."""
    connections: int
    ca_bundle: Path | None = None
    endpoint: str | None = None
    """Of the S3 service, for s3:// refs."""

    @property
    def url(self) -> str | None:
        """For plain HTTP clients; None for s3://."""
        return self.ref if self.ref.startswith("http") else None

    @property
    def s3(self) -> S3Object | None:
        """For S3 clients. A plain URL with a folder in it is read as path-style S3, anonymous: most servers answer that."""
        parts = urlsplit(self.ref)
        path = unquote(parts.path).lstrip("/")
        if parts.scheme == "s3":
            return S3Object(self.endpoint, parts.netloc, path, signed=True) if self.endpoint else None
        bucket, _, key = path.partition("/")
        if not key or parts.query:
            return None
        return S3Object(f"{parts.scheme}://{parts.netloc}", bucket, key, signed=False)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run."""

    command: tuple[str, ...]
    version_command: tuple[str, ...]
    """Its first line of output names tool and version."""
    output: Path | None
    """Where the object will be; None: the command says so, as `prestage stage --json` does."""
    environment: Mapping[str, str] = field(default_factory=dict)


class Unfit(Exception):
    """This tool cannot take part: not installed, or it does not speak the protocol. The message says which."""


Plan = Callable[[Target, Path], Invocation]
"""Target and an empty folder to an invocation. Raises Unfit."""


def program(name: str) -> str:
    """The path of an installed program, beside this interpreter first.

    Raises:
        Unfit: not found.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise Unfit(f"{name} is not installed")
    return found


def url_of(target: Target) -> str:
    """The plain URL.

    Raises:
        Unfit: there is none.
    """
    if target.url is None:
        raise Unfit("does not speak S3 with signatures")
    return target.url


def s3_of(target: Target) -> S3Object:
    """The S3 address.

    Raises:
        Unfit: there is none.
    """
    if target.s3 is None:
        raise Unfit("needs s3:// with an endpoint (AWS_ENDPOINT_URL), or a URL of the form /bucket/key")
    return target.s3
