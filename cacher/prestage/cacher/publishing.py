"""Publishing: a directory becomes a prefix with a version.

    hash each file -> HEAD its object: there with this digest? -> else PUT (multipart, CRC64NVME) -> … -> manifest, last

The bytes of all files are there before the manifest names them; a reader sees the old version or the new one. Where the bucket
keeps versions, an old version's stage finishes with the old objects; where it does not, an object that is overwritten has another
ETag, and whoever is at the old version is told that it changed. Nothing is mixed, nothing is deleted.

Run again after any failure it uploads what is missing: an object carries its SHA-256 as metadata. The manifest is put only over
the one that was there at the start, so that of two publishers at once one is told.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prestage.cacher.digests import Digest
from prestage.cacher.errors import Busy, Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.origins.file import FileOrigin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.s3_addresses import S3Settings
from prestage.cacher.origins.s3_credentials import Chain, failure
from prestage.cacher.origins.s3_published import KEY, Publication, publication_of
from prestage.cacher.refs import FileRef, S3Ref
from prestage.cacher.staging import Watcher
from prestage.cacher.transfer.job import Progress

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef
    from s3transfer.manager import TransferManager

DIGEST_FIELD = "prestage-sha256"
"""Metadata of an object that we put."""
PART_BYTES = 16 << 20
_PARTS_MAX = 9000
"""S3 allows 10,000."""
FILES_AT_ONCE = 4
PARTS_AT_ONCE = 8
"""Of all files together."""
_PROGRESS_S = 0.2
_ALL = Selection(include=("*",), exclude=(".git/*", ".cache/huggingface/*"))


@dataclass(frozen=True, slots=True)
class Published:
    """A prefix that is published."""

    ref: str
    revision: str
    files: int
    bytes: int
    uploaded_files: int
    uploaded_bytes: int
    seconds: float
    was_there: bool
    """The very same was published already: nothing was written."""


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


def publish(folder: Path, ref: S3Ref, client: S3Client, *, watcher: Watcher | None = None) -> Published:
    """Upload `folder` below the prefix `ref`, bytes first, manifest last; blocks. All files but .git and download bookkeeping.

    Raises:
        Misconfigured: no prefix, or files that cannot be published.
        Busy: a file changed while it was uploaded, or somebody else published meanwhile.
        NotFound, Denied, Unavailable: as S3 says; run it again and it goes on.
    """
    began = time.monotonic()
    if not ref.is_prefix or ref.pin is not None:
        raise Misconfigured(f"{ref.name} is no prefix", hint="write s3://bucket/prefix/ with a slash at its end")
    if not folder.is_dir():
        raise Misconfigured(f"{folder} is no directory", hint="name the directory that holds the model's files")
    files = FileOrigin(FileRef(str(folder.absolute()))).resolve(_ALL)
    run = _Publishing(folder.absolute(), ref, client, watcher or Watcher(), files)
    with _translated(ref):
        before = run.manifest_there()
        entries = run.upload()
        publication = publication_of(entries)
        was_there = before is not None and before[1] == publication.to_bytes()
        if not was_there:
            run.put_manifest(publication, before[0] if before is not None else None)
    seconds = time.monotonic() - began
    return Published(
        ref.name, publication.revision, len(entries), files.size_bytes, run.uploaded_files, run.uploaded_bytes, seconds, was_there
    )


@dataclass(slots=True)
class _Publishing:
    folder: Path
    ref: S3Ref
    client: S3Client
    watcher: Watcher
    files: Manifest
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    _done: int = 0
    _began: float = field(default_factory=time.monotonic)
    _told: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def manifest_there(self) -> tuple[str, bytes] | None:
        """ETag and bytes of the manifest of the version before."""
        from botocore.exceptions import ClientError

        try:
            answer = self.client.get_object(Bucket=self.ref.bucket, Key=self.ref.key + KEY)
            return answer["ETag"], answer["Body"].read()
        except ClientError as exc:
            if _status(exc) == 404 and _code(exc) != "NoSuchBucket":
                return None
            raise

    def upload(self) -> list[FileEntry]:
        """Every file, each as its object is now."""
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        largest = max(file.size_bytes for file in self.files.files)
        part = max(PART_BYTES, -(-largest // _PARTS_MAX))
        config = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=PARTS_AT_ONCE)
        pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="prestage-publish")
        try:
            # Left by an exception: parts under way end, nothing new is begun, incomplete uploads are aborted.
            with create_transfer_manager(self.client, config) as manager:
                return list(pool.map(lambda file: self._file(file, manager), self.files.files))
        finally:
            pool.shutdown(cancel_futures=True)

    def _file(self, file: FileEntry, manager: TransferManager) -> FileEntry:
        path, key = self.folder / file.path, self.ref.key + file.path
        sha256 = _sha256(path)
        head = self._head(key)
        if head is None or not _is_same(head, file, sha256):
            self._put(path, key, manager, sha256)
            self.count(file)
            head = self._head(key)
        else:
            self._moved(file.size_bytes)
        status = path.stat()
        if (status.st_size, str(status.st_mtime_ns)) != (file.size_bytes, file.modified):
            raise Busy(f"{path} changed while it was published", hint="nothing was published; publish again when it is at rest")
        if head is None or not _is_same(head, file, sha256):
            raise Busy(
                f"s3://{self.ref.bucket}/{key} was overwritten by somebody else just now", hint="publish again, one at a time"
            )
        version = head.get("VersionId")
        return FileEntry(
            file.path,
            file.size_bytes,
            digest=Digest(f"sha256:{sha256}"),
            etag=head["ETag"],
            version=version if version != "null" else None,
        )

    def _put(self, path: Path, key: str, manager: TransferManager, sha256: str) -> None:
        from boto3.s3.transfer import ProgressCallbackInvoker

        more = {"Metadata": {DIGEST_FIELD: sha256}, "ChecksumAlgorithm": "CRC64NVME"}
        manager.upload(str(path), self.ref.bucket, key, more, [ProgressCallbackInvoker(self._moved)]).result()

    def count(self, file: FileEntry) -> None:
        """One more was uploaded."""
        with self._lock:
            self.uploaded_files += 1
            self.uploaded_bytes += file.size_bytes

    def _head(self, key: str) -> HeadObjectOutputTypeDef | None:
        from botocore.exceptions import ClientError

        try:
            return self.client.head_object(Bucket=self.ref.bucket, Key=key)
        except ClientError as exc:
            if _status(exc) == 404:
                return None
            raise

    def put_manifest(self, publication: Publication, over: str | None) -> None:
        """The moment of publication. `over`: the ETag of the manifest that it replaces."""
        from botocore.exceptions import ClientError

        condition = {"IfMatch": over} if over is not None else {"IfNoneMatch": "*"}
        try:
            self.client.put_object(
                Bucket=self.ref.bucket,
                Key=self.ref.key + KEY,
                Body=publication.to_bytes(),
                ContentType="application/json",
                ChecksumAlgorithm="CRC64NVME",
                **condition,  # type: ignore[arg-type] # two optional parameters of the same kind
            )
        except ClientError as exc:
            if _status(exc) in (409, 412):
                raise Busy(
                    f"somebody else published {self.ref.name} meanwhile", hint="look at what is there, then publish again"
                ) from exc
            raise

    def _moved(self, size_bytes: int) -> None:
        with self._lock:
            self._done += size_bytes
            now = time.monotonic()
            if now - self._told < _PROGRESS_S and self._done < self.files.size_bytes:
                return
            self._told = now
            rate = self._done / max(now - self._began, 1e-3)
            self.watcher.progress(Progress(self._done, self.files.size_bytes, rate, 0, "publish"))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return digest
    except OSError as exc:
        raise Busy(f"{path} cannot be read any more: {exc.strerror}", hint="publish again when it is at rest") from exc


def _is_same(head: HeadObjectOutputTypeDef, file: FileEntry, sha256: str) -> bool:
    return head["ContentLength"] == file.size_bytes and head["Metadata"].get(DIGEST_FIELD) == sha256


def _status(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


@contextmanager
def _translated(ref: S3Ref) -> Iterator[None]:
    """boto3's failures as ours."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as exc:
        raise _refusal(ref, exc) from exc
    except Boto3Error as exc:
        cause = exc.__cause__ or exc.__context__
        if isinstance(cause, ClientError):
            raise _refusal(ref, cause) from exc
        raise Unavailable(f"{ref.name}: {str(exc)[:200]}", hint="run the same command again: it goes on") from exc
    except NoCredentialsError as exc:
        raise Denied(f"{ref.name}: no AWS credentials were found", hint="set AWS_PROFILE or AWS_ACCESS_KEY_ID") from exc
    except BotoCoreError as exc:
        found = failure(exc)
        if isinstance(found, Unavailable):
            raise Unavailable(f"{ref.name}: {str(exc)[:200]}", hint="run the same command again: it goes on") from exc
        raise found from exc


def _refusal(ref: S3Ref, exc: ClientError) -> PrestageError:
    code, status = _code(exc), _status(exc)
    why = f"{ref.name}: {code or status}: {str(exc.response.get('Error', {}).get('Message', ''))[:160]}"
    if code == "NoSuchBucket" or status == 404:
        return NotFound(why, hint="make the bucket, or check its name and AWS_ENDPOINT_URL_S3")
    if status in (401, 403):
        return Denied(why, hint="ask for s3:PutObject and s3:GetObject below the prefix")
    if 400 <= status < 500 and status not in (408, 429):
        return Misconfigured(why, hint="check bucket, prefix and region")
    return Unavailable(why, hint="run the same command again: it goes on")
