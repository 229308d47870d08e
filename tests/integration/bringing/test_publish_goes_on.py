"""A publish that was cut off anywhere: nothing is seen half uploaded, and the next one sends only the parts that lack."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agents import wait_for
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError
from bringing import write_folder

from prestage.cacher.errors import Busy, Denied
from prestage.cacher.publishing import Published, contents, prefix, publish
from prestage.cacher.publishing.uploading import DIGEST_FIELD
from prestage.cacher.refs import S3Ref
from prestage.cacher.staging import Watcher
from servers.toxiproxy import Toxiproxy
from servers.versitygw import Versitygw

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 5 << 20
"""S3 takes no smaller one, but the last."""
WEIGHTS = random.Random(6).randbytes(2 * PART + 1_000_003)
NEW = {"config.json": b'{"v": 2}', "model.safetensors": WEIGHTS}
OLD = {"config.json": b'{"v": 1}', "model.safetensors": b"small"}
KEY = "m/model.safetensors"


@dataclass
class Bucket:
    """A bucket, and the folder that is published to its prefix m/."""

    versitygw: Versitygw
    client: S3Client
    name: str
    folder: Path

    def publish(self, client: S3Client | None = None, watcher: Watcher | None = None) -> Published:
        return publish(self.folder, S3Ref(self.name, "m/"), client or self.client, watcher=watcher)

    def there(self, key: str) -> bytes | None:
        try:
            return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        except ClientError as exc:
            assert exc.response["Error"]["Code"] == "NoSuchKey"
            return None

    def unfinished(self) -> list[tuple[str, list[int]]]:
        """Uploads, each with the sizes of its parts."""
        uploads = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return [(upload["UploadId"], self.parts(upload["Key"], upload["UploadId"])) for upload in uploads]

    def parts(self, key: str, upload: str) -> list[int]:
        return [part["Size"] for part in self.client.list_parts(Bucket=self.name, Key=key, UploadId=upload).get("Parts", [])]

    def begin(self, data: bytes, label: str = "") -> str:
        """An unfinished upload with `data` as its first part, begun for what `label` names."""
        begun = self.client.create_multipart_upload(
            Bucket=self.name,
            Key=KEY,
            Metadata={DIGEST_FIELD: label},
            ChecksumAlgorithm="CRC64NVME",
            ChecksumType="FULL_OBJECT",
        )
        upload = begun["UploadId"]
        self.client.upload_part(
            Bucket=self.name, Key=KEY, UploadId=upload, PartNumber=1, Body=data, ChecksumAlgorithm="CRC64NVME"
        )
        return upload

    def assert_published(self, files: dict[str, bytes]) -> None:
        manifest = json.loads(self.there("m/.prestage/manifest.json") or b"{}")
        assert {row["path"]: row["size"] for row in manifest["files"]} == {path: len(data) for path, data in files.items()}
        assert {path: self.there(f"m/{path}") for path in files} == files
        assert self.unfinished() == []


@pytest.fixture
def bucket(versitygw: Versitygw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Small parts, one at a time."""
    monkeypatch.setattr(contents, "PART_BYTES", PART)
    monkeypatch.setattr(prefix, "PARTS_AT_ONCE", 1)
    monkeypatch.setattr(prefix, "FILES_AT_ONCE", 1)
    client = versitygw.client()
    name = f"goes-on-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield Bucket(versitygw, client, name, write_folder(tmp_path / "model", NEW))
    client.close()


def calls_of(bucket: Bucket) -> int:
    """How many a publish makes when nobody kills it."""
    client, calls = bucket.versitygw.client(), list[str]()
    client.meta.events.register("before-send.s3", lambda event_name, **_: calls.append(event_name))
    bucket.publish(client)
    client.close()
    return len(calls)


def killed_before(bucket: Bucket, fatal: int) -> None:
    """Publish in a child that dies before its call number `fatal`."""
    child = os.fork()
    if child == 0:
        try:
            client, number = bucket.versitygw.client(), iter(range(fatal + 1))
            client.meta.events.register(
                "before-send.s3", lambda **_: os.kill(os.getpid(), signal.SIGKILL) if next(number) == fatal else None
            )
            bucket.publish(client)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"call {fatal} was not reached: {status}"


@pytest.mark.slow
def test_killed_before_any_of_its_calls_it_shows_no_half_and_sends_no_part_twice(bucket: Bucket, tmp_path: Path) -> None:
    base = bucket.folder
    bucket.folder = write_folder(tmp_path / "counted", NEW)
    bucket.publish()
    write_folder(bucket.folder, {"model.safetensors": WEIGHTS[::-1], "config.json": b'{"v": 9}'})
    count = calls_of(bucket)
    assert count >= 12
    for fatal in range(count):
        bucket.folder = write_folder(tmp_path / "old", OLD)
        bucket.publish()
        before = bucket.there("m/.prestage/manifest.json")
        bucket.folder = base
        killed_before(bucket, fatal)
        assert bucket.there("m/.prestage/manifest.json") == before, "published before its bytes were there"
        for path in NEW:
            assert bucket.there(f"m/{path}") in (OLD[path], NEW[path]), f"{path} is seen half uploaded, before call {fatal}"
        kept = [size for _, parts in bucket.unfinished() for size in parts]
        done = bucket.publish()
        assert done.resumed_bytes == sum(kept), f"before call {fatal}"
        assert done.uploaded_bytes + done.resumed_bytes in (0, len(WEIGHTS), sum(map(len, NEW.values())))
        bucket.assert_published(NEW)


CLI = """
import sys
from prestage.cacher import cli
from prestage.cacher.publishing import contents, prefix
contents.PART_BYTES, prefix.PARTS_AT_ONCE = int(sys.argv.pop(1)), 1
cli.main()
"""


def test_the_command_killed_in_the_middle_of_a_part_goes_on_with_the_parts_before_it(
    bucket: Bucket, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    route = toxiproxy.route(bucket.versitygw.port)
    slow = route.add("bandwidth", stream="upstream", rate=8_000)
    environ = {**os.environ, **bucket.versitygw.environment, "AWS_ENDPOINT_URL": route.url().rstrip("/"), "NO_COLOR": "1"}
    command = [sys.executable, "-c", CLI, str(PART), "publish", str(bucket.folder), f"s3://{bucket.name}/m/", "--json"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: any(parts for _, parts in bucket.unfinished()))
        process.kill()
    ((_, kept),) = bucket.unfinished()
    assert kept in ([PART], [PART, PART])
    assert bucket.there(KEY) is None
    route.remove(slow)
    again = subprocess.run(command, env=environ, check=True, capture_output=True, text=True, timeout=60)
    done = json.loads(again.stdout.splitlines()[-1])
    assert done["resumed_bytes"] == sum(kept)
    assert done["uploaded_bytes"] <= sum(map(len, NEW.values())) - sum(kept)
    bucket.assert_published(NEW)


def test_uploads_of_other_bytes_are_aborted_and_nothing_of_them_is_used(bucket: Bucket) -> None:
    bucket.begin(b"x" * PART)
    bucket.begin(WEIGHTS[:PART][::-1])
    done = bucket.publish()
    assert (done.resumed_bytes, done.uploaded_bytes) == (0, sum(map(len, NEW.values())))
    bucket.assert_published(NEW)


def test_of_several_that_fit_one_is_gone_on_with(bucket: Bucket) -> None:
    bucket.begin(WEIGHTS[:PART], "")
    bucket.begin(WEIGHTS[:PART], "")
    bucket.begin(b"x" * PART)
    bucket.publish()
    bucket.assert_published(NEW)


def test_an_object_never_bears_the_digest_of_the_file_that_its_upload_was_begun_for(bucket: Bucket) -> None:
    """Another model begins with the same bytes: its unfinished upload fits, the name that it gave does not."""
    bucket.begin(WEIGHTS[:PART], "f" * 64)
    done = bucket.publish()
    head = bucket.client.head_object(Bucket=bucket.name, Key=KEY)
    assert head["Metadata"][DIGEST_FIELD] not in ("", "f" * 64)
    assert done.uploaded_bytes >= len(WEIGHTS)
    assert bucket.publish().was_there
    bucket.assert_published(NEW)


def test_an_object_with_our_digest_and_other_bytes_is_put_anew(bucket: Bucket) -> None:
    """What a publish that was killed between the two steps of the test before would have left."""
    bucket.publish()
    head = bucket.client.head_object(Bucket=bucket.name, Key=KEY)
    bucket.client.put_object(
        Bucket=bucket.name, Key=KEY, Body=WEIGHTS[::-1], Metadata=head["Metadata"], ChecksumAlgorithm="CRC64NVME"
    )
    assert bucket.publish().uploaded_files == 1
    bucket.assert_published(NEW)


def refusing(client: S3Client, operation: str, status: int, code: str, *, only: Callable[[str], bool] = lambda _: True) -> None:
    """S3 says no to that call from now on."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Raw:
        def stream(self) -> Iterator[bytes]:
            yield body

    def refuse(request: object, **_: object) -> AWSResponse | None:
        url = str(getattr(request, "url", ""))
        headers = HTTPHeaders.from_pairs([("content-type", "application/xml")])
        return AWSResponse(url, status, headers, Raw()) if only(url) else None

    client.meta.events.register(f"before-send.s3.{operation}", refuse)  # type: ignore[arg-type] # botocore takes what it answers


class Told(Watcher):
    """What a user is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def trouble(self, why: str) -> None:
        self.said.append(why)


def test_a_publish_that_fails_keeps_its_parts_for_the_next_one(bucket: Bucket) -> None:
    client = bucket.versitygw.client()
    refusing(client, "UploadPart", 403, "AccessDenied", only=lambda url: "partNumber=3" in url)
    with pytest.raises(Denied):
        bucket.publish(client)
    client.close()
    assert [parts for _, parts in bucket.unfinished()] == [[PART, PART]]
    assert bucket.publish().resumed_bytes == 2 * PART
    bucket.assert_published(NEW)


def test_who_may_not_list_uploads_is_told_and_sends_all(bucket: Bucket) -> None:
    client, told = bucket.versitygw.client(), Told()
    refusing(client, "ListMultipartUploads", 403, "AccessDenied")
    assert bucket.publish(client, told).resumed_bytes == 0
    client.close()
    assert ["AccessDenied" in said and "from its start" in said for said in told.said] == [True]
    bucket.assert_published(NEW)


def test_who_may_not_abort_is_told_and_publishes(bucket: Bucket) -> None:
    bucket.begin(b"x" * PART)
    client, told = bucket.versitygw.client(), Told()
    refusing(client, "AbortMultipartUpload", 403, "AccessDenied")
    bucket.publish(client, told)
    client.close()
    assert ["may not be aborted" in said for said in told.said] == [True]
    assert bucket.there(KEY) == WEIGHTS


def test_an_upload_that_somebody_else_ends_is_told(bucket: Bucket) -> None:
    client, ended = bucket.versitygw.client(), threading.Event()

    def end(**_: object) -> None:
        for upload, parts in bucket.unfinished() if not ended.is_set() else ():
            assert parts == []
            bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=KEY, UploadId=upload)
            ended.set()

    client.meta.events.register("before-send.s3.UploadPart", end)
    with pytest.raises(Busy, match="somebody else"):
        bucket.publish(client)
    client.close()
    bucket.publish()
    bucket.assert_published(NEW)


def test_a_file_that_changes_while_its_parts_are_sent_is_refused_by_its_checksum(bucket: Bucket) -> None:
    client = bucket.versitygw.client()
    path = bucket.folder / "model.safetensors"

    def change(**_: object) -> None:
        with path.open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"other")

    client.meta.events.register_first("before-call.s3.CreateMultipartUpload", change)
    with pytest.raises(Busy, match="changed"):
        bucket.publish(client)
    client.close()
    assert bucket.there(KEY) is None
    bucket.publish()
    bucket.assert_published({**NEW, "model.safetensors": path.read_bytes()})
