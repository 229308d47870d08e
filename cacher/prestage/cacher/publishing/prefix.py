"""The order of a publication.

    what is unfinished? -> read each file -> HEAD its object: there with these digests? -> else upload it -> … -> manifest, last

The bytes of all files are there before the manifest names them; a reader sees the old version or the new one. Where the bucket
keeps versions, an old version's stage finishes with the old objects; where it does not, an object that is overwritten has another
ETag, and whoever is at the old version is told that it changed. Nothing is mixed, no object is deleted.

Run again after any failure it uploads what is missing, part by part. An object carries its SHA-256 as metadata; S3 keeps the
CRC64NVME of its bytes: both must fit before it counts as there. The manifest is put only over the one that was there at the
start, so that of two publishers at once one is told.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prestage.cacher.digests import Digest
from prestage.cacher.errors import Busy, Misconfigured
from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.origins.file import FileOrigin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.s3_published import KEY, Publication, publication_of
from prestage.cacher.publishing.client import (
    FILES_AT_ONCE,
    PARTS_AT_ONCE,
    code_of,
    count_what_is_sent,
    status_of,
    translated,
)
from prestage.cacher.publishing.contents import Contents, gone, read_contents
from prestage.cacher.publishing.going_on import TYPE
from prestage.cacher.publishing.uploading import DIGEST_FIELD, Uploader
from prestage.cacher.refs import FileRef, S3Ref
from prestage.cacher.staging import Watcher
from prestage.cacher.transfer.job import Progress

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

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
    """Sent by this run."""
    resumed_bytes: int
    """Of the uploaded files, sent by an earlier run that was cut off."""
    seconds: float
    was_there: bool
    """The very same was published already: nothing was written."""


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
    count_what_is_sent(client)
    with translated(ref):
        before = run.manifest_there()
        entries = run.upload()
        publication = publication_of(entries)
        was_there = before is not None and before[1] == publication.to_bytes()
        if not was_there:
            run.put_manifest(publication, before[0] if before is not None else None)
    return Published(
        ref.name,
        publication.revision,
        len(entries),
        files.size_bytes,
        run.uploaded_files,
        run.uploaded_bytes,
        run.resumed_bytes,
        time.monotonic() - began,
        was_there,
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
    resumed_bytes: int = 0
    _done: int = 0
    _began: float = field(default_factory=time.monotonic)
    _told: float = 0.0
    _leaving: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def manifest_there(self) -> tuple[str, bytes] | None:
        """ETag and bytes of the manifest of the version before."""
        from botocore.exceptions import ClientError

        try:
            answer = self.client.get_object(Bucket=self.ref.bucket, Key=self.ref.key + KEY)
            return answer["ETag"], answer["Body"].read()
        except ClientError as exc:
            if status_of(exc) == 404 and code_of(exc) != "NoSuchBucket":
                return None
            raise

    def upload(self) -> list[FileEntry]:
        """Every file, each as its object is now."""
        parts = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="prestage-publish-part")
        files = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="prestage-publish")
        uploader = Uploader(self.client, self.ref.bucket, parts, self._sent, self._resumed, self._trouble)
        try:
            uploader.look(self.ref.key)
            return list(files.map(lambda file: self._file(file, uploader), self.files.files))
        finally:
            self._leaving.set()
            # Left by an exception: parts under way end and stay where they are, nothing new is begun.
            parts.shutdown(wait=False, cancel_futures=True)
            files.shutdown(cancel_futures=True)
            parts.shutdown()

    def _file(self, file: FileEntry, uploader: Uploader) -> FileEntry:
        path, key = self.folder / file.path, self.ref.key + file.path
        contents = read_contents(path, file.size_bytes, self._leaving)
        head = self._head(key)
        if head is None or not _is_same(head, contents):
            head = self._put(path, key, contents, uploader)
        else:
            self._moved(file.size_bytes)
        _check_unchanged(path, file)
        if head is None or not _is_same(head, contents):
            raise Busy(
                f"s3://{self.ref.bucket}/{key} was overwritten by somebody else just now", hint="publish again, one at a time"
            )
        version = head.get("VersionId")
        return FileEntry(
            file.path,
            file.size_bytes,
            digest=Digest(f"sha256:{contents.sha256}"),
            etag=head["ETag"],
            version=version if version != "null" else None,
        )

    def _put(self, path: Path, key: str, contents: Contents, uploader: Uploader) -> HeadObjectOutputTypeDef | None:
        went_on = uploader.put(path, key, contents)
        head = self._head(key)
        if went_on and head is not None and not _is_same(head, contents):
            # It was begun for another file that begins with the same parts, and bears that one's name.
            self._moved(-contents.size_bytes)
            uploader.put(path, key, contents)
            head = self._head(key)
        with self._lock:
            self.uploaded_files += 1
        return head

    def _head(self, key: str) -> HeadObjectOutputTypeDef | None:
        from botocore.exceptions import ClientError

        try:
            return self.client.head_object(Bucket=self.ref.bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as exc:
            if status_of(exc) == 404:
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
            if status_of(exc) in (409, 412):
                raise Busy(
                    f"somebody else published {self.ref.name} meanwhile", hint="look at what is there, then publish again"
                ) from exc
            raise

    def _trouble(self, why: str) -> None:
        with self._lock:
            self.watcher.trouble(why)

    def _sent(self, size_bytes: int) -> None:
        with self._lock:
            self.uploaded_bytes += size_bytes
        self._moved(size_bytes)

    def _resumed(self, size_bytes: int) -> None:
        with self._lock:
            self.resumed_bytes += size_bytes
        self._moved(size_bytes)

    def _moved(self, size_bytes: int) -> None:
        with self._lock:
            self._done += size_bytes
            now = time.monotonic()
            if now - self._told < _PROGRESS_S and self._done < self.files.size_bytes:
                return
            self._told = now
            rate = max(0, self._done - self.resumed_bytes) / max(now - self._began, 1e-3)
            self.watcher.progress(Progress(self._done, self.files.size_bytes, rate, 0, "publish"))


def _check_unchanged(path: Path, file: FileEntry) -> None:
    try:
        status = path.stat()
    except OSError as exc:
        raise gone(path, exc) from exc
    if (status.st_size, str(status.st_mtime_ns)) != (file.size_bytes, file.modified):
        raise Busy(f"{path} changed while it was published", hint="nothing was published; publish again when it is at rest")


def _is_same(head: HeadObjectOutputTypeDef, contents: Contents) -> bool:
    """An object of just these bytes, that says so. Where S3 keeps their CRC64NVME, it must be that one too."""
    if head["ContentLength"] != contents.size_bytes or head["Metadata"].get(DIGEST_FIELD) != contents.sha256:
        return False
    return head.get("ChecksumType") != TYPE or head.get("ChecksumCRC64NVME", contents.checksum) == contents.checksum
