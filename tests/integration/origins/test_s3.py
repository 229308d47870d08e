"""s3:// against versitygw: versions, checksums, styles, credentials of every kind, and what each refusal says."""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.auth
import pytest
from offers import WEIGHTS, Offer, reader

from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import FileEntry
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.net.ports import HttpRequest, ResponseHead
from prestage.cacher.origins.ports import Next, Selection
from prestage.cacher.origins.s3 import S3Origin
from prestage.cacher.transfer.ports import Changed, Fatal, Retry
from servers.versitygw import Versitygw

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def owner(versitygw: Versitygw) -> Iterator[S3Client]:
    client = versitygw.client()
    yield client
    client.close()


@pytest.fixture
def versioned(owner: S3Client, bucket: str) -> str:
    owner.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def offer(ref: str) -> Offer:
    return Offer(ref, {}, lambda path, content: None, ref)


def only(client: HttpClient, ref: str) -> FileEntry:
    (file,) = reader(offer(ref), client).manifest.files
    return file


def refused(client: HttpClient, ref: str) -> PrestageError:
    with pytest.raises(PrestageError) as error:
        reader(offer(ref), client)
    assert "\n" not in str(error.value)
    assert "SKTEST" not in str(error.value)
    return error.value


def test_the_newest_version_is_pinned_and_read_after_it_was_replaced(versioned: str, owner: S3Client, client: HttpClient) -> None:
    first = owner.put_object(Bucket=versioned, Key="m/f.bin", Body=WEIGHTS)["VersionId"]
    at = reader(offer(f"s3://{versioned}/m/"), client)
    (file,) = at.manifest.files
    assert file.version == first
    owner.put_object(Bucket=versioned, Key="m/f.bin", Body=b"newer")
    assert at.read(file) == WEIGHTS
    assert only(client, f"s3://{versioned}/m/f.bin").version != first


def test_a_version_can_be_named(versioned: str, owner: S3Client, client: HttpClient) -> None:
    first = owner.put_object(Bucket=versioned, Key="f.bin", Body=b"one")["VersionId"]
    owner.put_object(Bucket=versioned, Key="f.bin", Body=b"three")
    at = reader(offer(f"s3://{versioned}/f.bin?versionId={first}"), client)
    assert at.read(at.manifest.files[0]) == b"one"
    wrong = refused(client, f"s3://{versioned}/f.bin?versionId=01JBADBADBADBADBADBADBADBA")
    assert isinstance(wrong, NotFound)
    assert "version" in str(wrong)


def test_a_deleted_object_of_a_versioned_bucket_is_a_miss(versioned: str, owner: S3Client, client: HttpClient) -> None:
    owner.put_object(Bucket=versioned, Key="f.bin", Body=b"one")
    owner.delete_object(Bucket=versioned, Key="f.bin")
    assert isinstance(refused(client, f"s3://{versioned}/f.bin"), NotFound)


CRC32 = base64.b64encode(zlib.crc32(WEIGHTS).to_bytes(4, "big")).decode()
SHA256 = base64.b64encode(hashlib.sha256(WEIGHTS).digest()).decode()
SUMS: dict[str, tuple[dict[str, Any], str]] = {
    "crc64nvme by default": ({"ChecksumAlgorithm": "CRC64NVME"}, "crc64nvme:"),
    "crc32c": ({"ChecksumAlgorithm": "CRC32C"}, "crc32c:"),
    "crc32": ({"ChecksumCRC32": CRC32}, f"crc32:{zlib.crc32(WEIGHTS):08x}"),
}


@pytest.mark.parametrize("case", SUMS)
def test_a_checksum_of_the_whole_object_enters_the_manifest(case: str, bucket: str, owner: S3Client, client: HttpClient) -> None:
    extra, starts = SUMS[case]
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS, **extra)
    file = only(client, f"s3://{bucket}/f.bin")
    assert (file.checksum or "").startswith(starts)
    assert file.digest is None


def test_a_sha256_of_the_whole_object_becomes_its_digest(bucket: str, owner: S3Client, client: HttpClient) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS, ChecksumSHA256=SHA256)
    assert only(client, f"s3://{bucket}/f.bin").digest == f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"


def test_a_checksum_over_parts_is_no_digest(bucket: str, owner: S3Client, client: HttpClient) -> None:
    upload = owner.create_multipart_upload(Bucket=bucket, Key="f.bin", ChecksumAlgorithm="SHA256", ChecksumType="COMPOSITE")
    part = owner.upload_part(
        Bucket=bucket, Key="f.bin", UploadId=upload["UploadId"], PartNumber=1, Body=WEIGHTS, ChecksumAlgorithm="SHA256"
    )
    parts: Any = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}]
    owner.complete_multipart_upload(Bucket=bucket, Key="f.bin", UploadId=upload["UploadId"], MultipartUpload={"Parts": parts})
    file = only(client, f"s3://{bucket}/f.bin")
    assert (file.digest, file.checksum) == (None, None)
    assert file.etag is not None
    assert file.etag.endswith('-1"')


def test_an_object_with_nothing_to_pin_by_but_its_date_says_so(bucket: str, versitygw: Versitygw, client: HttpClient) -> None:
    path = versitygw.buckets / bucket / "bare.bin"
    path.write_bytes(WEIGHTS)
    at = reader(offer(f"s3://{bucket}/bare.bin"), client)
    (file,) = at.manifest.files
    assert (file.etag, file.checksum, file.digest, file.version) == (None, None, None, None)
    assert file.modified is not None
    assert at.read(file) == WEIGHTS
    path.write_bytes(bytes(reversed(WEIGHTS)))
    os.utime(path, (1, 1))
    with pytest.raises(Changed):
        at.read(file)


def test_a_long_prefix_is_listed_page_by_page(bucket: str, versitygw: Versitygw, client: HttpClient) -> None:
    folder = versitygw.buckets / bucket / "many"
    folder.mkdir()
    for number in range(1105):
        (folder / f"{number:04}.txt").touch()
    at = reader(offer(f"s3://{bucket}/many/"), client, Selection(include=("*9.txt",)))
    assert [file.path for file in at.manifest.files] == [f"{number:04}.txt" for number in range(9, 1105, 10)]


def test_folders_of_a_console_are_skipped_and_odd_keys_are_refused_by_name(
    bucket: str, owner: S3Client, client: HttpClient
) -> None:
    owner.put_object(Bucket=bucket, Key="m/", Body=b"")
    owner.put_object(Bucket=bucket, Key="m/sub/", Body=b"")
    owner.put_object(Bucket=bucket, Key="m/a+b c%20\u00e9&=.txt", Body=b"x")
    at = reader(offer(f"s3://{bucket}/m/"), client)
    assert [file.path for file in at.manifest.files] == ["a+b c%20\u00e9&=.txt"]
    assert at.read(at.manifest.files[0]) == b"x"
    owner.put_object(Bucket=bucket, Key="m/x\\y", Body=b"x")
    assert "backslash" in str(refused(client, f"s3://{bucket}/m/"))


MISSES = {
    "no bucket": ("s3://no-such-bucket-here/m/", "no such bucket"),
    "no bucket, one object": ("s3://no-such-bucket-here/f", "no such bucket"),
    "no key": ("s3://{bucket}/none", "s3://bucket/prefix/"),
    "no prefix": ("s3://{bucket}/none/", "nothing is stored"),
}


@pytest.mark.parametrize("case", MISSES)
def test_what_is_not_there_is_a_miss_that_says_what_to_try(case: str, bucket: str, client: HttpClient) -> None:
    ref, says = MISSES[case]
    error = refused(client, ref.format(bucket=bucket))
    assert isinstance(error, NotFound)
    assert says in str(error)


WRONG = {
    "secret": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "from the environment (AWS_ACCESS_KEY_ID)"),
    "key": ({"AWS_ACCESS_KEY_ID": "AKNOBODY"}, "not accepted"),
    "token": ({"AWS_SESSION_TOKEN": "bogus"}, "session token"),
    "nothing": ({"PRESTAGE_S3_ANONYMOUS": "1"}, "no AWS credentials"),
}


@pytest.mark.parametrize("what", ["f.bin", ""])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_credential_is_denied_by_kind_and_source(
    case: str, what: str, bucket: str, owner: S3Client, client: HttpClient, aws: pytest.MonkeyPatch
) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=b"x")
    environ, says = WRONG[case]
    for name, value in environ.items():
        aws.setenv(name, value)
    error = refused(client, f"s3://{bucket}/{what}")
    assert isinstance(error, Denied)
    assert says in str(error)
    assert "wrong" not in str(error)
    assert "bogus" not in str(error)


def test_a_public_bucket_needs_no_credentials(bucket: str, owner: S3Client, client: HttpClient, aws: pytest.MonkeyPatch) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS)
    owner.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]})
    owner.put_bucket_policy(
        Bucket=bucket,
        Policy=f"""{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Principal": "*",
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": ["arn:aws:s3:::{bucket}", "arn:aws:s3:::{bucket}/*"]}}]}}""",
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws.delenv(name)
    at = reader(offer(f"s3://{bucket}/"), client)
    assert at.read(at.manifest.files[0]) == WEIGHTS


def test_credentials_come_from_a_profile_with_its_endpoint(
    bucket: str, owner: S3Client, client: HttpClient, aws: pytest.MonkeyPatch, versitygw: Versitygw
) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS)
    for name in versitygw.environment:
        aws.delenv(name)
    with open(os.environ["AWS_SHARED_CREDENTIALS_FILE"], "w") as file:
        file.write("[lab]\naws_access_key_id = AKTEST\naws_secret_access_key = SKTEST\n")
    with open(os.environ["AWS_CONFIG_FILE"], "w") as file:
        file.write(f"[profile lab]\nregion = us-east-1\nendpoint_url = {versitygw.url}\n")
    aws.setenv("AWS_PROFILE", "lab")
    at = reader(offer(f"s3://{bucket}/f.bin"), client)
    assert at.read(at.manifest.files[0]) == WEIGHTS
    with open(os.environ["AWS_SHARED_CREDENTIALS_FILE"], "w") as file:
        file.write("[lab]\naws_access_key_id = AKTEST\naws_secret_access_key = other\n")
    assert "shared credentials file" in str(refused(client, f"s3://{bucket}/f.bin"))


def test_a_region_that_is_not_the_buckets_is_put_right(
    bucket: str, owner: S3Client, client: HttpClient, aws: pytest.MonkeyPatch
) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS)
    artifact = reader(offer(f"s3://{bucket}/"), client).manifest.artifact
    aws.setenv("AWS_REGION", "eu-central-9")
    at = reader(offer(f"s3://{bucket}/"), client)
    assert at.manifest.artifact == artifact
    assert at.read(at.manifest.files[0]) == WEIGHTS
    assert reader(offer(f"s3://{bucket}/f.bin"), client).manifest.files[0].size_bytes == len(WEIGHTS)


def test_credentials_that_are_renewed_on_the_way_keep_the_transfer_going(
    bucket: str, owner: S3Client, client: HttpClient, aws: pytest.MonkeyPatch
) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS)
    at = reader(offer(f"s3://{bucket}/f.bin"), client)
    (file,) = at.manifest.files
    aws.setenv("AWS_SESSION_TOKEN", "expired")
    assert isinstance(at.origin, S3Origin)
    at.origin.refresh(file)
    with pytest.raises(Retry, match="InvalidToken"):
        at.read(file)
    aws.delenv("AWS_SESSION_TOKEN")
    assert at.read(file) == WEIGHTS


def test_credentials_that_stay_refused_end_the_transfer_with_their_source(
    bucket: str, owner: S3Client, client: HttpClient, aws: pytest.MonkeyPatch
) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS)
    at = reader(offer(f"s3://{bucket}/f.bin"), client)
    aws.setenv("AWS_SESSION_TOKEN", "expired")
    at.origin.refresh(at.manifest.files[0])
    with pytest.raises(Retry, match="InvalidToken"):
        at.read(at.manifest.files[0])
    with pytest.raises(Fatal) as ended:
        at.read(at.manifest.files[0])
    assert isinstance(ended.value.error, Denied)
    assert "from the environment" in str(ended.value.error)


def test_a_clock_that_is_wrong_is_named(bucket: str, owner: S3Client, client: HttpClient, aws: pytest.MonkeyPatch) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS)
    right: Callable[..., datetime.datetime] = vars(botocore.auth)["get_current_datetime"]
    aws.setattr(botocore.auth, "get_current_datetime", lambda *args, **named: right(*args, **named) - datetime.timedelta(hours=1))
    real = time.time
    aws.setattr("prestage.cacher.origins.s3.time.time", lambda: real() - 3600)
    error = refused(client, f"s3://{bucket}/f.bin")
    assert isinstance(error, Denied)
    told = re.search(r"clock is (\d+) s off", str(error))
    assert told is not None
    assert 3500 < int(told[1]) <= 3601  # Date is in whole seconds, and a busy machine answers late


def test_a_version_that_may_not_be_read_is_left_to_if_match(versioned: str, owner: S3Client, client: HttpClient) -> None:
    owner.put_object(Bucket=versioned, Key="f.bin", Body=WEIGHTS)
    at = reader(offer(f"s3://{versioned}/f.bin"), client)
    (file,) = at.manifest.files

    def query() -> str:
        request = at.origin.request(at.manifest, file)
        assert isinstance(request, HttpRequest)
        return urlsplit(request.url).query

    assert query() == f"versionId={file.version}"
    denied = b"<Error><Code>AccessDenied</Code><Message>no s3:GetObjectVersion</Message></Error>"
    assert at.origin.judge(file, ResponseHead(403, {}), denied).next is Next.RETRY
    assert query() == ""
    assert at.read(file) == WEIGHTS
    verdict = at.origin.judge(file, ResponseHead(403, {}), denied)
    assert (verdict.next, type(verdict.error)) == (Next.FATAL, Denied)


def test_an_object_deleted_on_the_way_is_a_miss(bucket: str, owner: S3Client, client: HttpClient) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS)
    at = reader(offer(f"s3://{bucket}/f.bin"), client)
    owner.delete_object(Bucket=bucket, Key="f.bin")
    with pytest.raises(Fatal) as ended:
        at.read(at.manifest.files[0])
    assert isinstance(ended.value.error, NotFound)


def test_a_content_encoding_that_the_uploader_wrote_changes_no_byte(bucket: str, owner: S3Client, client: HttpClient) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS, ContentEncoding="gzip")
    at = reader(offer(f"s3://{bucket}/f.bin"), client)
    assert at.read(at.manifest.files[0]) == WEIGHTS


def test_no_request_carries_the_secret_and_no_url_a_credential(bucket: str, owner: S3Client, client: HttpClient) -> None:
    owner.put_object(Bucket=bucket, Key="f.bin", Body=WEIGHTS)
    at = reader(offer(f"s3://{bucket}/f.bin"), client)
    request = at.origin.request(at.manifest, at.manifest.files[0])
    assert isinstance(request, HttpRequest)
    assert "SKTEST" not in str(request)
    assert "AKTEST" not in request.url
    assert request.headers["If-Match"] == at.manifest.files[0].etag
    assert b"AKTEST" not in at.manifest.to_bytes()


def test_tls_with_a_ca_of_ones_own(versitygw_tls: Versitygw, aws: pytest.MonkeyPatch) -> None:
    for name, value in versitygw_tls.environment.items():
        aws.setenv(name, value)
    owner = versitygw_tls.client()
    try:
        owner.create_bucket(Bucket="over-tls")
        owner.put_object(Bucket="over-tls", Key="f.bin", Body=WEIGHTS)
    finally:
        owner.close()
    client = HttpClient(NetConfig.from_environ(os.environ))
    try:
        at = reader(offer("s3://over-tls/f.bin"), client)
        assert at.read(at.manifest.files[0]) == WEIGHTS
    finally:
        client.close()
    stranger = HttpClient(NetConfig())
    try:
        error = refused(stranger, "s3://over-tls/f.bin")
    finally:
        stranger.close()
    assert isinstance(error, Misconfigured)
    assert "PRESTAGE_CA_BUNDLE" in str(error)
