"""Publishing to a real S3 server, and staging what was published, also while somebody publishes over it."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bringing import read_folder, write_folder
from commands import Prestage

from prestage.cacher.errors import Busy
from prestage.cacher.publishing import publish
from prestage.cacher.refs import S3Ref
from prestage.cacher.staging import Watcher
from prestage.cacher.transfer.job import Progress
from servers.versitygw import Versitygw

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

WEIGHTS = random.Random(5).randbytes(20_000_003)
OLD = {"config.json": b'{"v": 1}', "sub/model.safetensors": WEIGHTS, "empty": b"", "caf\u00e9 +.txt": b"names"}
NEW = {**OLD, "config.json": b'{"v": 2}', "sub/model.safetensors": WEIGHTS[::-1]}


@dataclass
class Site:
    """A bucket, and the command with its credentials."""

    prestage: Prestage
    client: S3Client
    bucket: str
    folder: Path

    @property
    def ref(self) -> str:
        return f"s3://{self.bucket}/models/m/"

    def publish(self, files: dict[str, bytes]) -> dict[str, object]:
        write_folder(self.folder, files)
        done = self.prestage("publish", str(self.folder), self.ref, "--json")
        assert done.code == 0, done.err
        return done.last

    def published(self, path: str) -> dict[str, object]:
        raw = self.client.get_object(Bucket=self.bucket, Key="models/m/.prestage/manifest.json")["Body"].read()
        return next(row for row in json.loads(raw)["files"] if row["path"] == path)


@pytest.fixture(params=[False, True], ids=["plain bucket", "versioned bucket"])
def site(request: pytest.FixtureRequest, prestage: Prestage, versitygw: Versitygw, tmp_path: Path) -> Iterator[Site]:
    bucket = f"publish-{uuid.uuid4().hex[:12]}"
    client = versitygw.client()
    client.create_bucket(Bucket=bucket)
    if request.param:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    environment = {**prestage.env, **versitygw.environment}
    yield Site(replace(prestage, env=environment), client, bucket, tmp_path / "model")
    client.close()


def is_versioned(site: Site) -> bool:
    return "version" in site.published("config.json")


def test_what_was_published_is_staged_by_its_digests_and_has_a_version(site: Site) -> None:
    done = site.publish(OLD)
    site.client.put_object(Bucket=site.bucket, Key="models/m/stray.bin", Body=b"not listed")
    staged = site.prestage("stage", site.ref, "--json")
    assert staged.code == 0, staged.err
    assert read_folder(Path(staged.last["path"])) == OLD
    assert staged.events[0]["identity"] == staged.last["identity"] == "pinned"
    manifest = json.loads((Path(staged.last["path"]).parent / ".prestage/current/manifest.json").read_bytes())
    assert manifest["revision"] == done["revision"]
    assert all(file["digest"].startswith("sha256:") for file in manifest["files"])


def test_a_prefix_that_nobody_published_has_a_weak_identity_a_single_object_has_not(site: Site) -> None:
    for name in ("a.bin", "b.bin"):
        site.client.put_object(Bucket=site.bucket, Key=f"models/m/{name}", Body=b"bytes")
    staged = site.prestage("stage", site.ref, "--json")
    assert staged.events[0]["identity"] == staged.last["identity"] == "weak"
    assert [row["identity"] for row in json.loads(site.prestage("ls", "--json").out)] == ["weak"]
    assert "prestage publish" in site.prestage("stage", site.ref).err
    assert site.prestage("stage", f"{site.ref}a.bin", "--json").last["identity"] == "pinned"


def test_publishing_again_uploads_only_what_changed(site: Site) -> None:
    first = site.publish(OLD)
    assert first["uploaded_files"] == len(OLD)
    again = site.publish(OLD)
    assert (again["uploaded_files"], again["revision"]) == (0, first["revision"])
    changed = site.publish({**OLD, "config.json": b'{"v": 3}'})
    assert changed["uploaded_files"] == 1
    assert changed["revision"] != first["revision"]


def test_an_object_that_was_overwritten_by_others_is_named(site: Site) -> None:
    site.publish(OLD)
    versioned = is_versioned(site)
    site.client.put_object(Bucket=site.bucket, Key="models/m/config.json", Body=b'{"v": 9}')
    staged = site.prestage("stage", site.ref, "--json")
    if versioned:
        assert read_folder(Path(staged.last["path"])) == OLD
        return
    assert staged.code == 5
    assert "config.json changed since it was published" in staged.err
    site.client.delete_object(Bucket=site.bucket, Key="models/m/config.json")
    assert "it is gone" in site.prestage("stage", site.ref).err


def test_a_publish_that_was_killed_shows_the_old_version_or_says_changed_and_goes_on(site: Site) -> None:
    site.publish(OLD)
    versioned = is_versioned(site)
    write_folder(site.folder, NEW)
    process = site.prestage.start("publish", str(site.folder), site.ref, "--json")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.kill()
    process.communicate(timeout=60)
    assert first["event"] == "progress"
    staged = site.prestage("stage", site.ref, "--json")
    if staged.code == 0:
        assert read_folder(Path(staged.last["path"])) == OLD
    else:
        assert not versioned
        assert staged.code == 5
        assert "changed since it was published" in staged.err
    site.publish(NEW)
    after = site.prestage("stage", site.ref, "--json")
    assert read_folder(Path(after.last["path"])) == NEW


def test_a_stage_under_way_while_another_version_is_published_never_mixes(site: Site) -> None:
    site.publish(OLD)
    process = site.prestage.start("stage", site.ref, "--connections", "1", "--rate", "8M", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    site.publish(NEW)
    out, err = process.communicate(timeout=120)
    if process.returncode != 0:
        assert "changed" in err
        return
    found = read_folder(Path(json.loads(out.splitlines()[-1])["path"]))
    assert found in (OLD, NEW)


class Racing(Watcher):
    """Somebody else publishes while the first one is at it."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self._folder, self._done = site, folder, False

    def progress(self, progress: Progress) -> None:
        if not self._done and progress.bytes_done == progress.bytes_total:
            self._done = True
            publish(self._folder, S3Ref(self._site.bucket, "models/m/"), self._site.client)


def test_of_two_publishers_at_once_one_is_told(site: Site, tmp_path: Path) -> None:
    site.publish({"a": b"1"})
    write_folder(site.folder, {"a": b"2"})
    other = write_folder(tmp_path / "other", {"b": b"3"})
    with pytest.raises(Busy):
        publish(site.folder, S3Ref(site.bucket, "models/m/"), site.client, watcher=Racing(site, other))
    staged = site.prestage("stage", site.ref, "--json")
    assert read_folder(Path(staged.last["path"])) == {"b": b"3"}


@pytest.mark.parametrize(
    ("environ", "ref", "code"),
    [
        ({}, "s3://no-such-bucket-here/x/", 3),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, None, 4),
        ({}, "s3://bucket/key", 2),
        ({}, "hf://org/name", 2),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, None, 8),
    ],
)
def test_refusals_have_the_code_of_their_class(environ: dict[str, str], ref: str | None, code: int, site: Site) -> None:
    write_folder(site.folder, {"a": b"1"})
    refused = replace(site.prestage, env={**site.prestage.env, **environ})("publish", str(site.folder), ref or site.ref)
    assert refused.code == code, refused.err


def test_a_damaged_manifest_is_an_error_not_a_listing(site: Site) -> None:
    site.publish({"a": b"1"})
    site.client.put_object(Bucket=site.bucket, Key="models/m/.prestage/manifest.json", Body=b'{"format": 1}')
    staged = site.prestage("stage", site.ref)
    assert staged.code == 5
    assert "publish it again" in staged.err
