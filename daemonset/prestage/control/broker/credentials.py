"""Credentials of a namespace: from its Secrets, or a token of its service account. Never of the broker itself, never kept long.

    S3             Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, maybe AWS_SESSION_TOKEN
    Hugging Face   Secret with HF_TOKEN, token or the older HUGGING_FACE_HUB_TOKEN
    https          none: secret headers could only be handed to nodes
    nothing named  anonymous

A namespace must have opted in. Messages name Secrets and keys, never values.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from prestage.api.models import Credentials, CredentialType
from prestage.api.policies import OriginType
from prestage.control.broker.refusals import No, denied, misconfigured
from prestage.kube.errors import Forbidden, Missing
from prestage.kube.ports import Api
from prestage.kube.resources import SECRETS, SERVICE_ACCOUNTS

FETCHER: Final = "prestage-fetcher"
STS_AUDIENCE: Final = "sts.amazonaws.com"
_TOKEN_S: Final = 900
_HUB_KEYS: Final = ("HF_TOKEN", "token", "HUGGING_FACE_HUB_TOKEN")
_WORD = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True)
class S3Keys:
    """Of an account."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    shown: str = ""


@dataclass(frozen=True, slots=True)
class HubToken:
    """Of a hub."""

    value: str = field(repr=False)
    shown: str = ""


@dataclass(frozen=True, slots=True)
class RoleToken:
    """A service account's token, and the role that it is exchanged for."""

    role: str
    token: str = field(repr=False)
    shown: str = ""


Keys = S3Keys | HubToken | RoleToken | None
"""None: anonymous."""


async def credentials_of(api: Api, namespace: str, named: Credentials | None, kind: OriginType) -> Keys:
    """What `named` stands for in `namespace`, which has opted in.

    Raises:
        No: it is not there, not ours to read, or not of this kind.
        PrestageError: the API server does not answer.
    """
    if named is None or named.type is CredentialType.NONE:
        return None
    if kind is OriginType.HTTPS:
        hint = "remove the credentials where the file is public, or put it into an object store"
        raise misconfigured(
            "SecretHeaders", "an https:// source with credentials is refused: nodes would have to hold them", hint
        )
    if named.type is CredentialType.SECRET and named.secret_ref is not None:
        return await _of_secret(api, namespace, named.secret_ref.name, kind)
    if named.service_account is not None:
        account = named.service_account
        return await _of_account(api, namespace, account.name, account.role_arn, kind)
    raise misconfigured("NoCredentials", "credentials name neither a Secret nor a service account")


async def _of_secret(api: Api, namespace: str, name: str, kind: OriginType) -> Keys:
    try:
        found = await api.get(SECRETS, name, namespace=namespace)
    except Missing as exc:
        raise denied("NoCredentials", f"there is no Secret {namespace}/{name}", "create it, or name another one") from exc
    except Forbidden as exc:
        raise _not_let(namespace, f"Secret {name}", f"--secret {name}") from exc
    data = found.get("data")
    return read_keys(f"Secret {namespace}/{name}", data if isinstance(data, Mapping) else {}, kind)


def read_keys(shown: str, data: Mapping[str, object], kind: OriginType) -> Keys:
    """From a Secret's data (base64). Pure.

    Raises:
        No: what is needed is not in there, or cannot be what it should be.
    """
    texts = {name: _decoded(value) for name, value in data.items() if isinstance(value, str)}
    if kind is OriginType.HUGGING_FACE:
        value = next((texts[name] for name in _HUB_KEYS if texts.get(name)), None)
        if value is None:
            raise _lacking(shown, "HF_TOKEN")
        return HubToken(_word(shown, "the token", value), f"with the token of {shown}")
    if kind is OriginType.S3:
        parts = []
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if not texts.get(name):
                raise _lacking(shown, name)
            parts.append(_word(shown, name, texts[name]))
        session = texts.get("AWS_SESSION_TOKEN") or None
        return S3Keys(parts[0], parts[1], _word(shown, "AWS_SESSION_TOKEN", session) if session else None, f"the keys of {shown}")
    raise misconfigured("NoCredentials", f"{kind} origins take no credentials in this version")


async def _of_account(api: Api, namespace: str, name: str, role: str | None, kind: OriginType) -> Keys:
    if kind is not OriginType.S3 or role is None:
        raise misconfigured(
            "NoCredentials", "a service account needs a roleARN and an S3 source", "write roleARN, or type: Secret"
        )
    if name != FETCHER:
        raise denied(
            "NotTheFetcher", f"only the service account {FETCHER} may be used, not {name}", "kubectl prestage enable shows it"
        )
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [STS_AUDIENCE], "expirationSeconds": _TOKEN_S},
    }
    try:
        answer = await api.create(SERVICE_ACCOUNTS, asked, namespace=namespace, name=name, subresource="token")
    except Missing as exc:
        raise denied(
            "NoCredentials", f"there is no service account {namespace}/{name}", f"kubectl prestage enable {namespace} --fetcher"
        ) from exc
    except Forbidden as exc:
        raise _not_let(namespace, f"the service account {name}", "--fetcher") from exc
    status = answer.get("status")
    token = status.get("token") if isinstance(status, Mapping) else None
    if not isinstance(token, str):
        raise denied("NoCredentials", f"the API server gave no token of {namespace}/{name}")
    return RoleToken(role, token, f"the role {role} by {namespace}/{name}")


def _not_let(namespace: str, what: str, flag: str) -> No:
    hint = f"apply what `kubectl prestage enable {namespace} {flag} -o yaml` prints"
    return denied("NoCredentials", f"{what} in {namespace} is not given to the broker", hint)


def _lacking(shown: str, key: str) -> No:
    return denied(
        "NoCredentials", f"{shown} has no key {key}", f"put it in: kubectl create secret generic … --from-literal={key}=…"
    )


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _word(shown: str, name: str, value: str) -> str:
    if not _WORD.fullmatch(value):
        raise misconfigured("NoCredentials", f"{name} of {shown} is not one word of plain characters", "write it again")
    return value
