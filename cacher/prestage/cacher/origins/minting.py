"""Credentials for the files of one manifest, asked of STS under a session policy. For a broker: a node never mints.

    manifest -> the narrowest policy that STS takes -> AssumeRole or AssumeRoleWithWebIdentity -> keys that end by themselves

Nothing on a node imports this (pyproject.toml, import contracts): a node that could mint could mint for everything its role
may read. What the keys may do is the role's policy and the session policy together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, cast

from prestage.cacher.errors import Denied, Misconfigured
from prestage.cacher.manifest import Manifest
from prestage.cacher.origins.s3_credentials import bounded, failure
from prestage.cacher.origins.session_policy import MAX_CHARS, SessionPolicy, listing_policy, session_policy

if TYPE_CHECKING:
    import botocore.session
    from botocore.exceptions import ClientError

LIFE_S_MIN, LIFE_S_MAX = 900, 43_200
"""Of an STS session; a role's own maximum may be shorter (one hour unless set, and for a role assumed by a role)."""
_ROUNDS = 6
"""STS also packs a policy into a binary form with a limit of its own that it states only by refusing: then a third shorter."""


@dataclass(frozen=True, slots=True)
class Minted:
    """A credential of its own life. Never log or store it; its text shows no secret."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: datetime
    policy: SessionPolicy
    packed_percent: int | None
    """How much of STS's packed limit the policy takes, where STS says so."""


@dataclass(frozen=True, slots=True)
class Role:
    """Whom to assume. `web_identity`: a token that proves who asks; without one the caller's own AWS credentials do."""

    arn: str
    life_s: int = 3600
    external_id: str | None = None
    web_identity: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"arn:(aws[a-z-]*):iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}", self.arn):
            raise Misconfigured(f"{self.arn!r} is no role", hint="write arn:aws:iam::<account>:role/<name>")
        if not LIFE_S_MIN <= self.life_s <= LIFE_S_MAX:
            raise Misconfigured(f"a session of {self.life_s} s", hint=f"from {LIFE_S_MIN} to {LIFE_S_MAX} s")

    @property
    def partition(self) -> str:
        """`aws`, `aws-cn`, `aws-us-gov`: the first word of every ARN the policy names."""
        return self.arn.split(":")[1]


class Sts(Protocol):
    """boto's client of STS, as far as it is used."""

    def assume_role(self, **settings: object) -> Mapping[str, object]:
        """AssumeRole."""
        ...

    def assume_role_with_web_identity(self, **settings: object) -> Mapping[str, object]:
        """AssumeRoleWithWebIdentity."""
        ...

    def close(self) -> None:
        """Drop its connections."""
        ...


def sts_client(session: botocore.session.Session | None = None) -> Sts:
    """STS by boto's own chain and endpoint settings, every call bounded. The caller closes it.

    Raises:
        Misconfigured: an AWS configuration that cannot be used.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        return cast(Sts, (session or botocore.session.get_session()).create_client("sts", config=bounded()))
    except BotoCoreError as exc:
        raise failure(exc) from exc


def mint(manifest: Manifest, role: Role, sts: Sts, *, session_name: str) -> Minted:
    """Keys that read the files of `manifest` and nothing else. `session_name` shows in the account's audit log.

    Raises:
        Denied: STS refuses the role or the token.
        Misconfigured: no S3 manifest, or one that no policy fits.
        Unavailable: STS cannot be reached.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    max_chars = MAX_CHARS
    for _ in range(_ROUNDS):
        policy = session_policy(manifest, partition=role.partition, max_chars=max_chars)
        try:
            return _minted(_assume(role, sts, policy, session_name), policy)
        except ClientError as exc:
            if _code(exc) != "PackedPolicyTooLarge":
                raise failure(exc) from exc
            max_chars = len(policy.document) * 2 // 3
        except BotoCoreError as exc:
            raise failure(exc) from exc
    raise Misconfigured(
        f"STS finds every policy for {manifest.artifact} too large", hint="stage fewer files, or a shorter prefix"
    )


def mint_for_listing(bucket: str, key: str, role: Role, sts: Sts, *, session_name: str) -> Minted:
    """Keys that resolve what `key` of `bucket` names (see `listing_policy`) and nothing else.

    Raises:
        Denied, Misconfigured, Unavailable: as `mint`.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    policy = listing_policy(bucket, key, partition=role.partition)
    try:
        return _minted(_assume(role, sts, policy, session_name), policy)
    except (ClientError, BotoCoreError) as exc:
        raise failure(exc) from exc


def _assume(role: Role, sts: Sts, policy: SessionPolicy, session_name: str) -> Mapping[str, object]:
    asked: dict[str, object] = {
        "RoleArn": role.arn,
        "RoleSessionName": re.sub(r"[^\w+=,.@-]", "-", session_name, flags=re.ASCII)[:64].ljust(2, "-"),
        "DurationSeconds": role.life_s,
        "Policy": policy.document,
    }
    if role.web_identity is not None:
        return sts.assume_role_with_web_identity(**asked, WebIdentityToken=role.web_identity)
    external = {"ExternalId": role.external_id} if role.external_id is not None else {}
    return sts.assume_role(**asked, **external)


def _minted(answer: Mapping[str, object], policy: SessionPolicy) -> Minted:
    keys = cast(Mapping[str, object], answer.get("Credentials") or {})
    try:
        packed = cast("int | None", answer.get("PackedPolicySize"))
        return Minted(
            cast(str, keys["AccessKeyId"]),
            cast(str, keys["SecretAccessKey"]),
            cast(str, keys["SessionToken"]),
            cast(datetime, keys["Expiration"]),
            policy,
            packed,
        )
    except KeyError as exc:
        raise Denied(f"AWS STS gave no credentials: {exc} is missing", hint="check AWS_ENDPOINT_URL_STS") from None


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))
