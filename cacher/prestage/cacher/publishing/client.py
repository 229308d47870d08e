"""boto3's client for publishing, and its failures as ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from prestage.cacher.errors import Busy, Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.origins.s3_addresses import S3Settings
from prestage.cacher.origins.s3_credentials import Chain, failure
from prestage.cacher.publishing.contents import Slice
from prestage.cacher.refs import S3Ref

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

FILES_AT_ONCE = 4
PARTS_AT_ONCE = 8
"""Of all files together."""


def open_client(environ: Mapping[str, str]) -> S3Client:
    """boto3's client for the S3 that `s3://` refs are read from; close it. Every call has a deadline and standard retries.

    Raises:
        Misconfigured: a setting that cannot be used.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    profile = Chain().profile()
    settings = S3Settings.from_environ(environ, endpoint=profile.endpoint, region=profile.region, style=profile.style)
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 6},
        max_pool_connections=FILES_AT_ONCE + PARTS_AT_ONCE,
        s3={"addressing_style": _style(settings)},
    )
    verify = environ.get("PRESTAGE_CA_BUNDLE") or None
    try:
        return boto3.client("s3", endpoint_url=settings.endpoint, region_name=settings.region, verify=verify, config=config)
    except (BotoCoreError, ValueError) as exc:
        raise Misconfigured(
            f"the AWS configuration cannot be used: {exc}", hint="check AWS_PROFILE and the AWS_ variables"
        ) from exc


def _style(settings: S3Settings) -> Literal["auto", "virtual", "path"]:
    if settings.style == "virtual":
        return "virtual"
    return "path" if settings.style == "path" or settings.endpoint else "auto"


def count_what_is_sent(client: S3Client) -> None:
    """From now on a `Slice` that `client` sends counts the bytes that go out, not those that are read to be signed."""
    events = client.meta.events
    events.register_first("request-created.s3", _reads_to_sign, unique_id="prestage-signing")
    events.register_last("request-created.s3", _reads_to_send, unique_id="prestage-sending")


def _reads_to_sign(request: AWSRequest, **_: object) -> None:
    if isinstance(request.data, Slice):
        request.data.is_sending = False


def _reads_to_send(request: AWSRequest, **_: object) -> None:
    if isinstance(request.data, Slice):
        request.data.is_sending = True


def status_of(exc: ClientError) -> int:
    """The HTTP status; 0 where there is none."""
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(exc: ClientError) -> str:
    """S3's word for it; empty where there is none."""
    return str(exc.response.get("Error", {}).get("Code", ""))


@contextmanager
def translated(ref: S3Ref) -> Iterator[None]:
    """boto3's failures as ours."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as exc:
        raise _refusal(ref, exc) from exc
    except NoCredentialsError as exc:
        raise Denied(f"{ref.name}: no AWS credentials were found", hint="set AWS_PROFILE or AWS_ACCESS_KEY_ID") from exc
    except BotoCoreError as exc:
        found = failure(exc)
        if isinstance(found, Unavailable):
            raise Unavailable(f"{ref.name}: {str(exc)[:200]}", hint="run the same command again: it goes on") from exc
        raise found from exc


def _refusal(ref: S3Ref, exc: ClientError) -> PrestageError:
    code, status = code_of(exc), status_of(exc)
    why = f"{ref.name}: {code or status}: {str(exc.response.get('Error', {}).get('Message', ''))[:160]}"
    if code == "NoSuchUpload":
        return Busy(f"{ref.name}: somebody else ended an upload below it just now", hint="publish again, one at a time")
    if code in ("BadDigest", "InvalidDigest"):
        return Busy(f"{why}: a file changed while it was published", hint="publish again when it is at rest: it goes on")
    if code == "NoSuchBucket" or status == 404:
        return NotFound(why, hint="make the bucket, or check its name and AWS_ENDPOINT_URL_S3")
    if status in (401, 403):
        return Denied(why, hint="ask for s3:PutObject and s3:GetObject below the prefix")
    if 400 <= status < 500 and status not in (408, 429):
        return Misconfigured(why, hint="check bucket, prefix and region")
    return Unavailable(why, hint="run the same command again: it goes on")
