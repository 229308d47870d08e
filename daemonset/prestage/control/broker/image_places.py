"""Which Origin an image's registry is, what of it a namespace may name, and by which logins. Pure, but for reading Secrets.

    Origin of type OCI with an endpoint    the registry of that host; http:// speaks without TLS
    the default one, without an endpoint   every other registry, by TLS
    pull Secrets                           kubernetes.io/dockerconfigjson; the longest entry that fits wins, as the kubelet has it

No Origin of type OCI: no image is staged.
"""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prestage.api.policies import CachePolicy, Origin, OriginType
from prestage.control.broker.refusals import denied, misconfigured
from prestage.control.broker.walls import check_subjects
from prestage.images.logins import Login, Logins, parse_logins
from prestage.images.names import SCHEME, ImageName, parse_oci
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.ports import Api
from prestage.kube.resources import SECRETS

SECRETS_MAX: Final = 16
_KEY: Final = ".dockerconfigjson"


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where a repository answers. `base`: of its own registry, or of a mirror."""

    origin: Origin
    base: str
    is_tls: bool


def place_of(name: ImageName, origins: Iterable[Origin]) -> ImagePlace:
    """Its registry.

    Raises:
        No: no Origin is for it, or several are.
    """
    known = [one for one in origins if one.spec.type is OriginType.OCI and one.spec.mirror_of is None]
    found = [one for one in known if one.spec.endpoint is not None and _host(one) == name.api_host.lower()]
    found = found or [one for one in known if one.spec.endpoint is None and one.spec.default]
    if not found:
        hint = "an operator makes an Origin of type OCI: with the registry's endpoint, or one with default: true for all"
        raise misconfigured("NoOriginForImages", f"no Origin is for the registry {name.registry}", hint)
    if len(found) > 1:
        names = ", ".join(sorted(one.metadata.name for one in found))
        raise misconfigured("TwoDefaultOrigins", f"several Origins are for the registry {name.registry}: {names}", "leave one")
    return at(found[0], name)


def at(origin: Origin, name: ImageName) -> ImagePlace:
    """The repository at an Origin: of its registry, or a mirror of that."""
    endpoint = (origin.spec.endpoint or f"https://{name.api_host}").rstrip("/")
    return ImagePlace(origin, f"{endpoint}/v2/{name.repository}", endpoint.startswith("https://"))


def check_image(name: ImageName, origin: Origin, policies: Iterable[CachePolicy], labels: Mapping[str, str]) -> None:
    """May a namespace with these labels name it? Raises No where a policy says no."""
    whole = f"{name.registry}/{name.repository}"
    about = (whole, name.repository) if origin.spec.endpoint is not None else (whole,)
    check_subjects(whole, about, origin, policies, labels)


def named(ref: str) -> ImageName:
    """Of a ref that begins with oci://. Raises Misconfigured."""
    return parse_oci(ref)


def pinned(name: ImageName, root: str) -> str:
    """As a trace has it: by the digest of what was resolved."""
    tag = f":{name.tag}" if name.tag else ""
    return f"{SCHEME}{name.registry}/{name.repository}{tag}@{root}"


async def login_for(api: Api, namespace: str, secrets: Sequence[str], name: ImageName) -> Login | None:
    """By the pull Secrets of a namespace that has opted in; one that is not there is passed over, as the kubelet does.

    Raises:
        No: one is not ours to read, or holds no Docker config.
        PrestageError: the API server does not answer.
    """
    if len(secrets) > SECRETS_MAX:
        raise misconfigured("TooManySecrets", f"{len(secrets)} pull Secrets: at most {SECRETS_MAX}")
    found = Logins()
    for secret in secrets:
        try:
            seen = await api.get(SECRETS, secret, namespace=namespace)
        except Missing:
            continue
        except Forbidden as exc:
            hint = f"apply what `kubectl prestage enable {namespace} --secret {secret} -o yaml` prints"
            raise denied("NoCredentials", f"Secret {secret} in {namespace} is not given to the broker", hint) from exc
        found = Logins((*found.entries, *read_logins(f"Secret {namespace}/{secret}", seen.get("data")).entries))
    return found.of(name)


def read_logins(shown: str, data: object) -> Logins:
    """Of a Secret's data. Pure.

    Raises:
        No: it is no pull Secret.
        Misconfigured: what is in there is no Docker config.
    """
    packed = data.get(_KEY) if isinstance(data, Mapping) else None
    try:
        raw = base64.b64decode(packed, validate=True) if isinstance(packed, str) else None
    except binascii.Error:
        raw = None
    if raw is None:
        hint = "make it by: kubectl create secret docker-registry …"
        raise denied("NoCredentials", f"{shown} has no key {_KEY}", hint)
    return parse_logins(raw, shown)


def _host(origin: Origin) -> str:
    return urllib.parse.urlsplit(origin.spec.endpoint or "").netloc.lower()
