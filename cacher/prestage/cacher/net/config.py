"""How this process reaches the network: proxies, CA bundle, deadlines. Read once, at the composition root."""

from __future__ import annotations

import ipaddress
import ssl
import urllib.parse
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.errors import Misconfigured

VERSION = "0.1.0"
_CA_VARIABLES = ("PRESTAGE_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy: absolute-form for http, CONNECT for https."""

    host: str
    port: int
    authorization: str | None = None
    """Value of Proxy-Authorization; secret."""


@dataclass(frozen=True, slots=True)
class NetConfig:
    """Settings of the HTTP client."""

    proxies: Mapping[str, str] = field(default_factory=dict)
    """Scheme (or `all`) -> proxy URL, and `no` -> the NO_PROXY list."""
    ca_bundle: Path | None = None
    """PEM file with the CAs to trust; None: the system's."""
    connect_timeout_s: float = 10.0
    """For TCP, proxy and TLS handshake together, per address."""
    idle_timeout_s: float = 10.0
    """A connection that delivers no byte for so long is dropped. There is no total timeout: slow is not broken."""
    slow_timeout_s: float = 30.0
    """Longest time for a whole head, and the time over which a body is measured: a drip just inside the idle timeout would
    hold a connection for ever."""
    slow_bytes_per_s: int = 1024
    """A body slower than this for `slow_timeout_s` of waiting counts as stalled (curl's and Git's own floor)."""
    user_agent: str = f"prestage/{VERSION}"

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> NetConfig:
        """From HTTP(S)_PROXY, ALL_PROXY, NO_PROXY (lower case first, as curl does) and the CA variables in use today.

        Raises:
            Misconfigured: a CA bundle that is not there.
        """
        proxies: dict[str, str] = {}
        for name in ("http", "https", "all", "no"):
            value = environ.get(f"{name}_proxy") or (environ.get(f"{name.upper()}_PROXY") if name != "http" else None)
            value = value or (environ.get("HTTP_PROXY") if name == "http" and "REQUEST_METHOD" not in environ else None)
            if value:
                proxies[name] = value
        bundle = next((Path(environ[name]) for name in _CA_VARIABLES if environ.get(name)), None)
        if bundle is not None and not bundle.exists():
            raise Misconfigured(f"the CA bundle {str(bundle)!r} does not exist", hint=f"check {', '.join(_CA_VARIABLES)}")
        return NetConfig(proxies=proxies, ca_bundle=bundle)

    def proxy_for(self, scheme: str, host: str) -> Proxy | None:
        """The proxy for a request to `scheme://host`, None to go straight.

        Raises:
            Misconfigured: a proxy URL we cannot use.
        """
        url = self.proxies.get(scheme) or self.proxies.get("all")
        if not url or _bypasses(host, self.proxies.get("no", "")):
            return None
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or 8080
        except ValueError:
            # Its message quotes what it could not read, and that may be half a password.
            hint = "write it as http://user:password@host:port, with / ? # @ in the password as %2F %3F %23 %40"
            raise Misconfigured(f"the proxy URL for {scheme} cannot be read", hint=hint) from None
        if parts.scheme != "http" or not parts.hostname:
            raise Misconfigured(f"a {parts.scheme}:// proxy is not supported", hint="set an http:// proxy in HTTPS_PROXY")
        authorization = None
        if parts.username is not None:
            user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            authorization = f"Basic {b64encode(user.encode()).decode()}"
        return Proxy(parts.hostname, port, authorization)

    def tls_context(self) -> ssl.SSLContext:
        """A client context that trusts `ca_bundle`, or the system.

        Raises:
            Misconfigured: a bundle without a certificate that can be read.
        """
        bundle = self.ca_bundle
        try:
            if bundle is None:
                context = ssl.create_default_context()
            elif bundle.is_dir():
                context = ssl.create_default_context(capath=str(bundle))
            else:
                context = ssl.create_default_context(cafile=str(bundle))
        except OSError as exc:
            raise Misconfigured(f"the CA bundle {str(bundle)!r} cannot be read: {exc}", hint="it must be a PEM file") from exc
        context.set_alpn_protocols(["http/1.1"])
        return context


def _bypasses(host: str, no_proxy: str) -> bool:
    """True when NO_PROXY names `host`: itself, a parent domain, a network that holds the address, or `*`."""
    host = host.lower().rstrip(".")
    for raw in no_proxy.replace(",", " ").split():
        entry = raw.lower().lstrip("*").lstrip(".").rstrip(".") if raw != "*" else raw
        if entry in ("*", host):
            return True
        if not _is_address(host):
            if entry and host.endswith(f".{entry}"):
                return True
            continue
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
