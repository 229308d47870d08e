"""Where an object is asked for: endpoint, style, encoding. Pure.

    path style      https://endpoint/bucket/key         endpoints of one's own, addresses, buckets with dots
    virtual style   https://bucket.endpoint/key         AWS

Authority: `s3:<endpoint>/<bucket>`. On AWS a bucket's name is unique in its partition whatever the region, so there the
endpoint is written without one: nodes of two regions name one object alike.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, replace

from prestage.cacher.errors import Misconfigured

STYLES = ("auto", "path", "virtual")
ENDPOINT_IS = "the endpoint (AWS_ENDPOINT_URL_S3; in a cluster the Origin's)"
"""Where it is set, for whoever is told to look there."""
_DNS_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How S3 is reached, apart from credentials."""

    endpoint: str | None = None
    """Scheme, host and port, maybe a path; None: AWS."""
    region: str = "us-east-1"
    style: str = "auto"
    connect_to: tuple[str, int] | None = None
    """Connect there, whatever the URL's host says."""
    requester_pays: bool = False
    """Say on every request that the account of the credential pays for the transfer."""

    @staticmethod
    def from_environ(environ: Mapping[str, str], *, endpoint: str | None, region: str | None, style: str | None) -> S3Settings:
        """From the environment; `endpoint`, `region` and `style` are what the AWS profile says where it says nothing.

        Raises:
            Misconfigured: a value that cannot be used, with its name.
        """
        chosen = environ.get("PRESTAGE_S3_STYLE") or style or "auto"
        if chosen not in STYLES:
            raise Misconfigured(
                f"PRESTAGE_S3_STYLE (or the profile's addressing_style) is {chosen!r}", hint="use path or virtual"
            )
        url = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or endpoint
        return S3Settings(
            endpoint=_endpoint(url) if url else None,
            region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or region or "us-east-1",
            style=chosen,
            connect_to=_connect_to(environ.get("PRESTAGE_S3_CONNECT_TO", "")),
            requester_pays=_is_on(environ, "PRESTAGE_S3_REQUESTER_PAYS"),
        )

    def authority(self, bucket: str) -> str:
        """The manifest's authority of a bucket."""
        return f"s3:{self.endpoint or f'https://s3.{_domain(self.region)}'}/{bucket}"

    def url(self, bucket: str, key: str = "", query: Mapping[str, str] | None = None) -> str:
        """The URL of an object, or of the bucket (`key` empty), percent-encoded as SigV4 wants it."""
        base = urllib.parse.urlsplit(self.endpoint or f"https://s3.{self.region}.{_domain(self.region)}")
        quoted = urllib.parse.quote(key, safe="/~")
        if self._is_virtual(bucket, base):
            url = f"{base.scheme}://{bucket}.{base.netloc}{base.path}/{quoted}"
        else:
            url = f"{base.scheme}://{base.netloc}{base.path}/{bucket}" + (f"/{quoted}" if key else "")
        return f"{url}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}" if query else url

    def in_region(self, region: str) -> S3Settings:
        """The same for a bucket that turned out to be in `region`."""
        return replace(self, region=region)

    def _is_virtual(self, bucket: str, base: urllib.parse.SplitResult) -> bool:
        if self.style != "auto":
            return self.style == "virtual"
        return self.endpoint is None and _DNS_BUCKET.fullmatch(bucket) is not None and not _is_address(base.hostname or "")


def _domain(region: str) -> str:
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _endpoint(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise Misconfigured(f"the S3 endpoint is not a URL: {exc}", hint="write AWS_ENDPOINT_URL_S3=https://host:port") from exc
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise Misconfigured("the S3 endpoint is not a plain http(s) URL", hint="write AWS_ENDPOINT_URL_S3=https://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    # Written one way only: it is part of every artifact's name, and what is signed must be what is sent as Host.
    shown_port = f":{port}" if port and port != _DEFAULT_PORTS[parts.scheme] else ""
    return f"{parts.scheme}://{host}{shown_port}{parts.path.rstrip('/')}"


def _is_on(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "").lower()
    if value not in ("", "0", "1", "true", "false", "yes", "no"):
        raise Misconfigured(f"{name} is {value!r}", hint="write 1 or 0")
    return value in ("1", "true", "yes")


def _connect_to(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise Misconfigured(f"PRESTAGE_S3_CONNECT_TO is {text!r}", hint="write host:port")
    return host.strip("[]"), int(port)
