"""Credentials that a pod has without a secret of its own: web identity (IRSA), pod identity, the instance's role."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from offers import WEIGHTS, Offer, put_object, reader

from prestage.cacher.digests import PIECE_BYTES
from prestage.cacher.errors import Denied
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.s3 import S3Origin
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Stager, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from servers.answers import Answer, Request, plain
from servers.hostile import Hostile
from servers.identity import IdentityService
from servers.versitygw import Versitygw

EXPIRES = "2099-01-01T00:00:00Z"
ISSUED = {"AccessKeyId": "AKTEST", "SecretAccessKey": "SKTEST", "Token": "", "Expiration": EXPIRES, "Code": "Success"}
STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>AKTEST</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken></SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
STS_SAYS_NO = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"


@pytest.fixture
def ref(aws: pytest.MonkeyPatch, versitygw: Versitygw, bucket: str) -> str:
    put_object(versitygw, bucket, "f.bin", WEIGHTS)
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    return f"s3://{bucket}/f.bin"


@pytest.fixture
def identity() -> Iterator[Hostile]:
    """A server of credentials: set `choose`."""
    with Hostile() as server:
        yield server


def says(answer: Callable[[Request], Answer]) -> Callable[[Request], Callable[[Request, Answer], Answer]]:
    return lambda request: lambda _request, _answer: answer(request)


def staged_by(ref: str, client: HttpClient, source: str) -> S3Origin:
    at = reader(Offer(ref, {}, lambda path, content: None, ref), client)
    assert at.read(at.manifest.files[0]) == WEIGHTS
    assert isinstance(at.origin, S3Origin)
    assert source in at.origin._chain.signer().source
    return at.origin


@pytest.fixture
def service() -> Iterator[IdentityService]:
    with IdentityService(lambda: dict(ISSUED)) as running:
        yield running


def test_a_pod_identity(ref: str, client: HttpClient, aws: pytest.MonkeyPatch, service: IdentityService, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("pod-token")
    aws.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/v1/credentials")
    aws.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    staged_by(ref, client, "of the container")
    assert service.asked == ["GET /v1/credentials"]


def test_a_pod_token_that_is_not_accepted_is_a_denial(
    ref: str, client: HttpClient, aws: pytest.MonkeyPatch, service: IdentityService, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of-another-pod")
    aws.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/v1/credentials")
    aws.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(Denied) as refused:
        reader(Offer(ref, {}, lambda path, content: None, ref), client)
    assert "of-another-pod" not in str(refused.value)


@pytest.mark.parametrize("fails", [0, 2])
def test_an_instances_role_by_version_2_however_busy_the_metadata_is_at_first(
    fails: int, ref: str, client: HttpClient, aws: pytest.MonkeyPatch, service: IdentityService
) -> None:
    service.fails = fails
    aws.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{service.url}/")
    aws.delenv("AWS_EC2_METADATA_DISABLED")
    staged_by(ref, client, "of the instance's role")
    roles = "/latest/meta-data/iam/security-credentials/"
    assert list(dict.fromkeys(service.asked)) == ["PUT /latest/api/token", f"GET {roles}", f"GET {roles}node-role"]


def test_a_source_whose_credentials_are_over_already_is_a_denial_that_names_the_clock(
    ref: str, client: HttpClient, aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("pod-token")
    over = {**ISSUED, "Token": "t", "Expiration": "2020-01-01T00:00:00Z"}
    with IdentityService(lambda: over) as service:
        aws.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/v1/credentials")
        aws.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        with pytest.raises(Denied, match="still expired") as refused:
            reader(Offer(ref, {}, lambda path, content: None, ref), client)
    assert refused.value.hint is not None
    assert "clock" in refused.value.hint


@pytest.fixture
def web_identity(aws: pytest.MonkeyPatch, identity: Hostile, tmp_path: Path) -> Hostile:
    (tmp_path / "jwt").write_text("header.body.signature")
    aws.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "jwt"))
    aws.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
    aws.setenv("AWS_ENDPOINT_URL_STS", identity.url("/"))
    return identity


def test_a_web_identity_and_its_renewal(ref: str, client: HttpClient, web_identity: Hostile) -> None:
    web_identity.choose = says(lambda request: plain(200, STS.format(secret="SKTEST").encode()))
    origin = staged_by(ref, client, "of a web identity")
    asked = len(web_identity.requests)
    origin.refresh(reader(Offer(ref, {}, lambda path, content: None, ref), client).manifest.files[0])
    assert origin._chain.signer().generation == 1
    assert len(web_identity.requests) > asked, "a renewed credential comes from STS, not from memory"


def test_a_role_that_may_not_be_assumed_is_denied_without_showing_the_token(
    ref: str, client: HttpClient, web_identity: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    web_identity.choose = says(lambda request: plain(403, STS_SAYS_NO.encode()))
    with pytest.raises(Denied, match=r"STS.*AccessDenied") as refused:
        reader(Offer(ref, {}, lambda path, content: None, ref), client)
    assert "signature" not in str(refused.value)
    assert "trust policy" in str(refused.value)
    caplog.clear()  # boto's record of the failure holds its connection


def test_a_credential_that_s3_does_not_accept_is_named_by_its_kind(ref: str, client: HttpClient, web_identity: Hostile) -> None:
    web_identity.choose = says(lambda request: plain(200, STS.format(secret="other").encode()))
    with pytest.raises(Denied, match="AWS_WEB_IDENTITY_TOKEN_FILE") as refused:
        reader(Offer(ref, {}, lambda path, content: None, ref), client)
    assert os.environ["AWS_ROLE_ARN"] not in str(refused.value)


EXPIRED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>ExpiredToken</Code>'
    b"<Message>The provided token has expired.</Message><Token-0>t</Token-0><RequestId>R</RequestId></Error>"
)


def test_tokens_that_expire_between_pieces_cost_no_byte(client: HttpClient, aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As AWS says it: 403 ExpiredToken on the range request, whatever the credential's own date says."""
    content, lives = random.Random(3).randbytes(2 * PIECE_BYTES + 4097), itertools.count(1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws.delenv(name)
    (tmp_path / "token").write_text("pod-token")
    given = list[str]()

    def issue() -> dict[str, str]:
        given.append(f"session-{next(lives)}")
        return {**ISSUED, "Token": given[-1]}

    def once_each(request: Request, answer: Answer) -> Answer:
        """A session is good for one piece."""
        token = request.headers.get("x-amz-security-token", "")
        used = [one for one in server.gets() if one is not request and one.headers.get("x-amz-security-token") == token]
        return plain(403, EXPIRED, {"Content-Type": "application/xml"}) if used or token != given[-1] else answer

    with IdentityService(issue) as service, Hostile({"/bkt/f.bin": content}) as server:
        server.choose = lambda request: once_each if request.method == "GET" else None
        aws.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/v1/credentials")
        aws.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        aws.setenv("AWS_ENDPOINT_URL_S3", server.url(""))
        ref = parse_ref("s3://bkt/f.bin")
        limits = Limits(connections_start=1, connections_max=1, backoff_base_s=0.01)
        with Store.open(tmp_path / "store", own=True) as store, Engine(limits) as engine:
            staged = Stager(store, engine, client).stage(Wish(ref), open_origin(ref, client=client, environ=os.environ))
            assert (staged.path / "f.bin").read_bytes() == content
    assert server.sent_bytes == len(content) + 2 * len(EXPIRED)
    assert len(given) == 3
