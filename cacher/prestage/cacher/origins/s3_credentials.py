"""AWS credentials and signatures: boto's chain finds and refreshes them, boto's SigV4 signs; nothing of boto is sent.

The chain reads the process's own environment, ~/.aws, and asks STS (web identity, assume-role), the container's or the
instance's metadata. It is loaded at the first use of an s3:// ref: importing botocore costs 100 ms.

What comes out names the kind and the source of a credential, never its value.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prestage.cacher.errors import Denied, Misconfigured, PrestageError, Unavailable

if TYPE_CHECKING:
    import botocore.session
    from botocore.config import Config, _RetryDict
    from botocore.credentials import Credentials, ReadOnlyCredentials
    from botocore.exceptions import BotoCoreError, ClientError

_SOURCES = {
    "env": "AWS credentials from the environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "AWS credentials from the shared credentials file",
    "config-file": "AWS credentials from the config file",
    "custom-process": "AWS credentials from the profile's credential_process",
    "assume-role": "AWS credentials of an assumed role",
    "assume-role-with-web-identity": "AWS credentials of a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
    "sso": "AWS credentials from SSO",
    "login": "AWS credentials of `aws login`",
    "container-role": "AWS credentials of the container (pod identity or task role)",
    "iam-role": "AWS credentials of the instance's role",
}
STALE_CODES = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed", "RequestExpired"})
"""A fresh signature or a fresh session may cure these."""
STALE_SESSION_CODES = frozenset({"InvalidAccessKeyId", "InvalidTokenId", "XAmzAccessKeyIdNotFound"})
"""Of session keys: servers that forget a session with its end no longer know its key (versitygw, MinIO)."""
METADATA_ATTEMPTS = 3
"""boto asks an instance's metadata once, for a second; on a busy node that is too little, and would read as "no credentials"."""
_STS_CONNECT_S, _STS_READ_S = 10, 20
YOUNG_S = 20.0
RENEWALS_MAX = 2
"""Renewals within YOUNG_S of the one before; more of them would change nothing."""
ANONYMOUS = "no AWS credentials (none were found)"
FORCED_ANONYMOUS = "no AWS credentials (PRESTAGE_S3_ANONYMOUS)"


@dataclass(frozen=True, slots=True)
class Profile:
    """What the AWS configuration says about S3 apart from credentials."""

    endpoint: str | None = None
    region: str | None = None
    style: str | None = None


@dataclass(frozen=True, slots=True)
class Signer:
    """A frozen credential and where it came from; signs any number of requests. None: anonymous."""

    keys: ReadOnlyCredentials | None
    source: str
    generation: int = 0

    def may_be_stale(self, code: str) -> bool:
        """A refusal with this code may pass with the same source's next credential."""
        return code in STALE_CODES or (self.keys is not None and bool(self.keys.token) and code in STALE_SESSION_CODES)

    def sign(self, url: str, headers: Mapping[str, str], *, method: str, region: str) -> dict[str, str]:
        """`headers` and the signature's own. Range is added later by the engine: it need not be signed."""
        if self.keys is None:
            return dict(headers)
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method=method, url=url, headers=dict(headers))
        S3SigV4Auth(self.keys, "s3", region).add_auth(request)
        return dict(request.headers.items())

    def presign(self, url: str, *, region: str, life_s: int) -> str:
        """A URL that carries the signature of a GET for `life_s` seconds: whoever has it needs no key, and may add headers."""
        if self.keys is None:
            return url
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method="GET", url=url)
        S3SigV4QueryAuth(self.keys, "s3", region, expires=life_s).add_auth(request)
        return str(request.url)


class Credentialed(Protocol):
    """Where an origin gets its signatures from. Thread-safe."""

    def signer(self) -> Signer:
        """The credential as it is now."""
        ...

    def renew(self, refused: Signer) -> bool:
        """Look for another credential than the refused one. False: there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Handed:
    """A credential that was handed over, and nothing else: no environment, no files, no metadata service."""

    keys: ReadOnlyCredentials | None
    source: str

    def signer(self) -> Signer:
        """See `Credentialed`."""
        return Signer(self.keys, self.source)

    def renew(self, refused: Signer) -> bool:
        """See `Credentialed`."""
        return False


class Chain:
    """Credentials that refresh themselves. Thread-safe; one lookup at a time."""

    def __init__(self, *, anonymous: bool = False) -> None:
        self._anonymous = anonymous
        self._session: botocore.session.Session | None = None
        self._credentials: Credentials | None = None
        self._is_known = anonymous
        self._generation = 0
        self._asked_at = time.monotonic()
        self._young_renewals = 0
        self._lock = threading.Lock()

    def profile(self) -> Profile:
        """Endpoint, region and addressing style of the profile in use.

        Raises:
            Misconfigured: a profile that is not there, a file that cannot be read.
        """
        from botocore.exceptions import BotoCoreError

        try:
            session = self._open()
            scoped = session.get_scoped_config()
            services = session.full_config.get("services", {}).get(scoped.get("services", ""), {})
            region = session.get_config_variable("region")
        except BotoCoreError as exc:
            raise failure(exc) from exc
        own = services.get("s3", {})
        s3 = scoped.get("s3", {})
        ignored = str(session.get_config_variable("ignore_configured_endpoint_urls")).lower() == "true"
        endpoint = None if ignored else (own.get("endpoint_url") if isinstance(own, dict) else None) or scoped.get("endpoint_url")
        return Profile(endpoint, region, s3.get("addressing_style") if isinstance(s3, dict) else None)

    def signer(self) -> Signer:
        """The credential as it is now, refreshed when it is about to expire; anonymous when there is none at all.

        Raises:
            Misconfigured, Denied, Unavailable: the chain found a source that does not work.
        """
        if self._anonymous:
            return Signer(None, FORCED_ANONYMOUS)
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            try:
                if not self._is_known:
                    self._credentials = self._open().get_credentials()
                    self._is_known = True
                if self._credentials is None:
                    return Signer(None, ANONYMOUS)
                source = _SOURCES.get(self._credentials.method, f"AWS credentials ({self._credentials.method})")
                return Signer(self._credentials.get_frozen_credentials(), source, self._generation)
            except (BotoCoreError, ClientError) as exc:
                raise failure(exc) from exc
            except RuntimeError as exc:
                # botocore's own word for a source whose fresh answer is over already.
                hint = "set this machine's clock (NTP), or repair the source of the credentials"
                raise Denied(f"AWS credentials cannot be had: {' '.join(str(exc).split())[:200]}", hint=hint) from exc

    def renew(self, refused: Signer) -> bool:
        """Ask the whole chain again at the next use, unless another thread did so since `refused` was handed out.

        False when that was tried again and again just now: the same source keeps giving what is not accepted.
        """
        with self._lock:
            if refused.generation < self._generation:
                return True
            now = time.monotonic()
            self._young_renewals = self._young_renewals + 1 if now - self._asked_at < YOUNG_S else 0
            if self._anonymous or self._young_renewals > RENEWALS_MAX:
                return False
            self._session = None
            self._is_known = False
            self._generation += 1
            self._asked_at = now
            return True

    def _open(self) -> botocore.session.Session:
        if self._session is None:
            self._session = _session()
        return self._session


def bounded() -> Config:
    """For boto's own calls: deadlines and retries that fit into a transfer's patience."""
    from botocore.config import Config

    retries: _RetryDict = {"mode": "standard", "total_max_attempts": 3}
    return Config(connect_timeout=_STS_CONNECT_S, read_timeout=_STS_READ_S, retries=retries)


def _session() -> botocore.session.Session:
    """boto's own, with bounds on what it asks over the network."""
    import botocore.session

    session = botocore.session.get_session()
    session.set_default_client_config(bounded())
    if session.get_config_variable("metadata_service_num_attempts") == 1:
        session.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
    return session


def failure(exc: BotoCoreError | ClientError) -> PrestageError:
    """What a failure of the chain means to the caller."""
    from botocore import exceptions as boto

    text = " ".join(str(exc).split())[:200]
    if isinstance(exc, boto.ClientError):
        code = exc.response.get("Error", {}).get("Code", "")
        return Denied(f"AWS STS refused to give credentials: {code}", hint="check the role's trust policy and the token file")
    if isinstance(exc, boto.HTTPClientError | boto.ConnectionError | boto.MetadataRetrievalError):
        return Unavailable(f"no AWS credentials: their server cannot be reached: {text}", hint="run the same command again later")
    if isinstance(exc, boto.CredentialRetrievalError | boto.SSOError | boto.TokenRetrievalError):
        return Denied(f"AWS credentials cannot be had: {text}", hint="log in again (aws sso login) or repair their source")
    return Misconfigured(
        f"the AWS configuration cannot be used: {text}", hint="check AWS_PROFILE, ~/.aws/config and the AWS_ variables"
    )
