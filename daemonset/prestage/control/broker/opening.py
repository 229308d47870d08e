"""The cacher's origins under a cluster's rules: an Origin's endpoint, CA, proxy and networks, a namespace's keys, nobody else's.

    networks      public addresses and Origin.spec.allowedCIDRs; link-local, loopback, private and metadata addresses never
    environment   none of it reaches an origin: the broker's own credentials are no tenant's

Everything here blocks: it runs in the resolving threads.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from prestage.api.policies import Origin as OriginObject
from prestage.cacher.errors import Misconfigured
from prestage.cacher.manifest import Manifest
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.policy import PROXIES, AddressPolicy
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.http import HttpOrigin
from prestage.cacher.origins.hub_answers import Token
from prestage.cacher.origins.huggingface import HubOrigin, endpoint_of
from prestage.cacher.origins.minting import Minted, Role, Sts, mint, mint_for_listing, sts_client
from prestage.cacher.origins.retry import RetryRules
from prestage.cacher.origins.s3 import S3Origin
from prestage.cacher.origins.s3_addresses import S3Settings
from prestage.cacher.origins.s3_credentials import Handed
from prestage.cacher.refs import HfRef, HttpRef, NamedRef, S3Ref
from prestage.control.broker.credentials import HubToken, Keys, RoleToken, S3Keys
from prestage.control.broker.refusals import misconfigured

RULES: Final = RetryRules(budget_s=20.0, cap_s=4.0, unreachable_s=4.0)
_NOWHERE: Final = {"HOME": "/nonexistent"}
"""In place of our environment: no netrc."""


@dataclass(frozen=True, slots=True)
class Network:
    """How the broker reaches the outside, apart from what an Origin says."""

    config: NetConfig = field(default_factory=NetConfig)
    trust_proxies: bool = False
    folder: Path | None = None
    """The process's own: CAs of Origins lie there as files."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], folder: Path) -> Network:
        """HTTP(S)_PROXY, NO_PROXY, CA variables; PRESTAGE_TENANT_PROXIES=trust lets the proxy resolve names."""
        trust = environ.get(PROXIES) or "refuse"
        if trust not in ("refuse", "trust"):
            raise Misconfigured(f"{PROXIES} is {trust!r}", hint="write refuse or trust")
        return cls(NetConfig.from_environ(environ), trust == "trust", folder)


@dataclass(frozen=True, slots=True)
class Place:
    """An Origin as it is reached: its object, and the PEM of its own CA."""

    origin: OriginObject
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """An origin for one ref, ready to be asked. Close it."""

    ref: NamedRef
    place: Place
    client: HttpClient
    origin: S3Origin | HubOrigin | HttpOrigin
    keys: Keys
    expires_at: float | None = None
    """Of its keys, seconds since the epoch."""

    def close(self) -> None:
        """Its idle connections; what runs goes on."""
        self.client.close()


def policy_of(place: Place, network: Network) -> AddressPolicy:
    """Which addresses."""
    spec = place.origin.spec
    trusts = network.trust_proxies if spec.proxy is None else True
    return AddressPolicy.tenant(allow=spec.allowed_cidrs or (), refuse_private=True, trust_proxies=trusts)


def client_of(place: Place, network: Network) -> HttpClient:
    """For one Origin."""
    config = network.config
    if place.origin.spec.proxy is not None:
        config = replace(config, proxies={"all": place.origin.spec.proxy})
    if place.ca is not None:
        config = replace(config, ca_bundle=_as_file(place.ca, network.folder))
    return HttpClient(config, policy_of(place, network))


def open_to_resolve(ref: NamedRef, place: Place, keys: Keys, network: Network, cancel: threading.Event) -> Opened:
    """For a ref whose manifest is not known yet."""
    if isinstance(keys, RoleToken) and isinstance(ref, S3Ref):
        minted = _minted(
            keys, lambda role, sts: mint_for_listing(ref.bucket, ref.key, role, sts, session_name="prestage-resolve")
        )
        return _opened(ref, place, minted[0], network, cancel, minted[1])
    return _opened(ref, place, keys, network, cancel)


def open_to_fetch(
    ref: NamedRef, place: Place, keys: Keys, network: Network, cancel: threading.Event, manifest: Manifest
) -> Opened:
    """For the files of a manifest."""
    if isinstance(keys, RoleToken):
        minted = _minted(keys, lambda role, sts: mint(manifest, role, sts, session_name="prestage-fetch"))
        return _opened(ref, place, minted[0], network, cancel, minted[1])
    return _opened(ref, place, keys, network, cancel)


def authority_of(ref: NamedRef, place: Place) -> str:
    """What the manifest of a ref at this Origin must say it came from."""
    match ref:
        case S3Ref():
            return _s3_settings(place).authority(ref.bucket)
        case HfRef():
            return f"hf:{_endpoint(place)}/{ref.repo}"
        case HttpRef():
            return f"{ref.scheme}://{ref.host}"
    raise misconfigured("NoOrigin", f"nothing serves {ref.name}")


def _opened(
    ref: NamedRef, place: Place, keys: Keys, network: Network, cancel: threading.Event, expires_at: float | None = None
) -> Opened:
    client = client_of(place, network)
    asker = Asker(client, RULES, cancel=cancel)
    origin: S3Origin | HubOrigin | HttpOrigin
    match ref:
        case S3Ref():
            origin = S3Origin(ref, asker, _s3_settings(place), _handed(keys))
        case HfRef():
            token = Token(keys.value, keys.shown) if isinstance(keys, HubToken) else Token(None, "without a token")
            origin = HubOrigin(ref, asker, _endpoint(place), token)
        case HttpRef():
            _check_below(ref, place)
            origin = HttpOrigin(ref, asker, _NOWHERE)
        case _:
            raise misconfigured("NoOrigin", f"nothing serves {ref.name}")
    return Opened(ref, place, client, origin, keys, expires_at)


def _check_below(ref: HttpRef, place: Place) -> None:
    """An https Origin with an endpoint serves what lies below it."""
    endpoint = place.origin.spec.endpoint
    if endpoint is not None and not f"{ref.scheme}://{ref.host}{ref.path}".startswith(endpoint.rstrip("/") + "/"):
        raise misconfigured("OtherOrigin", f"{ref.name} is not below {endpoint} of Origin {place.origin.metadata.name}")


def _s3_settings(place: Place) -> S3Settings:
    spec = place.origin.spec
    environ = {"AWS_ENDPOINT_URL_S3": spec.endpoint} if spec.endpoint else {}
    style = "path" if spec.path_style or _has_address(spec.endpoint) else "virtual" if spec.endpoint else "auto"
    return S3Settings.from_environ(environ, endpoint=None, region=spec.region, style=style)


def _has_address(endpoint: str | None) -> bool:
    """An address has no names below it: buckets are in the path there."""
    try:
        ipaddress.ip_address(urllib.parse.urlsplit(endpoint or "").hostname or "")
    except ValueError:
        return False
    return True


def _endpoint(place: Place) -> str:
    return endpoint_of({"HF_ENDPOINT": place.origin.spec.endpoint or ""})


def _handed(keys: Keys) -> Handed:
    from botocore.credentials import ReadOnlyCredentials

    if isinstance(keys, S3Keys):
        return Handed(ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.session_token), keys.shown)
    return Handed(None, "no credentials (name a Secret with prestage.dev/credentials, or in the StagedModel)")


def _minted(keys: RoleToken, ask: Callable[[Role, Sts], Minted]) -> tuple[S3Keys, float]:
    sts = sts_client()
    try:
        made = ask(Role(keys.role, web_identity=keys.token), sts)
    finally:
        sts.close()
    return S3Keys(made.access_key, made.secret_key, made.session_token, keys.shown), made.expires_at.timestamp()


def _as_file(pem: str, folder: Path | None) -> Path:
    """A CA bundle is a path to the HTTP client. It is public, and named by its content."""
    if folder is None:
        raise Misconfigured("an Origin has a CA, and there is no folder to keep it in", hint="set Network.folder")
    path = folder / f"{hashlib.sha256(pem.encode()).hexdigest()}.pem"
    if not path.exists():
        fresh = folder / f"{path.name}.{threading.get_ident()}"
        fresh.write_text(pem)
        fresh.replace(path)
    return path
