"""What the server really has: size and BLAKE3 of one object, read by the plainest client there is, before any tool runs."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from prestage.bench.rivals.ports import Target
from prestage.cacher.errors import Misconfigured, NotFound, Unavailable

_STEP_BYTES = 1 << 20
_IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Reference:
    """What every result is compared with."""

    size_bytes: int
    blake3: str
    """Hex."""
    read_s: float = 0.0
    """How long the plain read took: what a tool's run may take follows from it."""


def read_reference(target: Target) -> Reference:
    """Read the whole object once, in one stream.

    Raises:
        NotFound, Unavailable: the server does not give it.
        Misconfigured: s3:// without boto3.
    """
    return _from_s3(target) if target.url is None else _from_url(target, target.url)


def _from_url(target: Target, url: str) -> Reference:
    context = ssl.create_default_context(cafile=str(target.ca_bundle) if target.ca_bundle else None)
    try:
        with urllib.request.urlopen(url, timeout=_IDLE_S, context=context) as body:  # noqa: S310 - the user's own URL
            return _digest(body.read)
    except urllib.error.HTTPError as exc:
        kind = NotFound if exc.code in (404, 410) else Unavailable
        raise kind(f"{url} answers {exc.code} {exc.reason}", hint="check the URL") from exc
    except OSError as exc:
        raise Unavailable(f"{url} cannot be read: {exc}", hint="is the server up?") from exc


def _from_s3(target: Target) -> Reference:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as exc:
        raise Misconfigured("boto3 is not installed", hint="pip install boto3") from exc
    source = target.s3
    if source is None:
        raise Misconfigured(f"where is {target.ref}?", hint="set AWS_ENDPOINT_URL")
    trust = str(target.ca_bundle) if target.ca_bundle else None
    try:
        client = boto3.client("s3", endpoint_url=source.endpoint, verify=trust)
        return _digest(client.get_object(Bucket=source.bucket, Key=source.key)["Body"].read)
    except (BotoCoreError, ClientError) as exc:
        raise NotFound(f"{target.ref} cannot be read: {exc}", hint="check bucket, key and credentials") from exc


def _digest(read: Callable[[int], bytes]) -> Reference:
    began, size, digest = time.monotonic(), 0, blake3()
    while part := read(_STEP_BYTES):
        size += len(part)
        digest.update(part)
    return Reference(size, digest.hexdigest(), time.monotonic() - began)
