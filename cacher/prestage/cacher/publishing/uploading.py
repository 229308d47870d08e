"""One file to one object: whole, or in parts that a later run goes on with.

    one part     PutObject with its CRC64NVME
    more         ListParts of what is unfinished -> CreateMultipartUpload, where nothing fits -> UploadPart of what lacks, side by
                 side -> CompleteMultipartUpload with the CRC64NVME of it all

An object appears with the last call or not at all. Nothing is aborted when an upload fails or its process dies: its parts are
what the next run goes on with. What cannot be gone on with is aborted: finished later by its owner, it would replace the object.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prestage.cacher.publishing.client import code_of, status_of
from prestage.cacher.publishing.contents import Contents, Part, Slice, open_slice
from prestage.cacher.publishing.going_on import CHECKSUM, TYPE, Choice, PartThere, Unfinished, choose

if TYPE_CHECKING:
    from typing import IO

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, ListPartsOutputTypeDef, MultipartUploadTypeDef

DIGEST_FIELD = "prestage-sha256"
"""Metadata of an object that we put."""


@dataclass(slots=True)
class Uploader:
    """Uploads below one prefix. Thread-safe, but for one object at a time."""

    client: S3Client
    bucket: str
    parts: Executor
    """Where parts are sent; not where `put` is called."""
    sent: Callable[[int], None]
    """Bytes that went out, < 0 for those that have to go again."""
    resumed: Callable[[int], None]
    """Bytes that need not go, for an earlier run sent them."""
    trouble: Callable[[str], None] = lambda _: None
    _unfinished: dict[str, list[Unfinished]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, prefix: str) -> None:
        """What was begun below `prefix` and not ended. Who may not list that begins anew."""
        from botocore.exceptions import ClientError

        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        try:
            for page in pages:
                for upload in page.get("Uploads", ()):
                    found = Unfinished(upload["UploadId"], _checksum_of(upload), {})
                    self._unfinished.setdefault(upload["Key"], []).append(found)
        except ClientError as exc:
            if status_of(exc) not in (403, 405, 501):
                raise
            self._unfinished.clear()
            self.trouble(f"unfinished uploads may not be listed ({code_of(exc)}): what was cut off is sent from its start")

    def put(self, path: Path, key: str, contents: Contents) -> bool:
        """Make the object. True: with parts of an earlier run, so that its metadata may be of what that run was for."""
        choice = choose(contents, self._with_parts(key))
        if len(contents.parts) == 1:
            choice = Choice(None, {}, (*choice.stale, *((choice.upload,) if choice.upload else ())))
        for upload in choice.stale:
            self._abort(key, upload)
        if len(contents.parts) == 1:
            self._put_whole(path, key, contents)
        else:
            self._put_parts(path, key, contents, choice)
        return choice.upload is not None

    def _with_parts(self, key: str) -> list[Unfinished]:
        with self._lock:
            known = self._unfinished.pop(key, [])
        return [found for upload in known if (found := self._look_at(key, upload)) is not None]

    def _look_at(self, key: str, upload: Unfinished) -> Unfinished | None:
        """Its parts; None: it ended meanwhile. One whose parts may not be listed has none that count."""
        from botocore.exceptions import ClientError

        pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=key, UploadId=upload.id)
        try:
            return Unfinished(upload.id, upload.checksum, {number: part for page in pages for number, part in _parts_of(page)})
        except ClientError as exc:
            if code_of(exc) == "NoSuchUpload":
                return None
            if status_of(exc) != 403:
                raise
            return upload

    def _abort(self, key: str, upload: str) -> None:
        from botocore.exceptions import ClientError

        try:
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
        except ClientError as exc:
            if code_of(exc) == "NoSuchUpload":
                return
            if status_of(exc) != 403:
                raise
            self.trouble(
                f"an unfinished upload of {key} may not be aborted: its parts stay until the bucket's lifecycle ends them"
            )

    def _put_whole(self, path: Path, key: str, contents: Contents) -> None:
        with open_slice(path, contents.parts[0], self.sent) as body:
            self.client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=_as_body(body),
                Metadata={DIGEST_FIELD: contents.sha256},
                ChecksumCRC64NVME=contents.checksum,
            )

    def _put_parts(self, path: Path, key: str, contents: Contents, choice: Choice) -> None:
        upload = choice.upload or self._begin(key, contents)
        self.resumed(sum(part.size_bytes for part in choice.have.values()))
        lacking = [part for part in contents.parts if part.number not in choice.have]
        put = list(self.parts.map(lambda part: self._put_part(path, key, upload, part), lacking))
        etags = {number: part.etag for number, part in choice.have.items()}
        etags |= {part.number: etag for part, etag in zip(lacking, put, strict=True)}
        self._complete(key, upload, contents, etags)

    def _begin(self, key: str, contents: Contents) -> str:
        answer = self.client.create_multipart_upload(
            Bucket=self.bucket,
            Key=key,
            Metadata={DIGEST_FIELD: contents.sha256},
            ChecksumAlgorithm=CHECKSUM,
            ChecksumType=TYPE,
        )
        return answer["UploadId"]

    def _put_part(self, path: Path, key: str, upload: str, part: Part) -> str:
        with open_slice(path, part, self.sent) as body:
            answer = self.client.upload_part(
                Bucket=self.bucket,
                Key=key,
                UploadId=upload,
                PartNumber=part.number,
                Body=_as_body(body),
                ChecksumCRC64NVME=part.checksum,
            )
        return answer["ETag"]

    def _complete(self, key: str, upload: str, contents: Contents, etags: dict[int, str]) -> None:
        from botocore.exceptions import ClientError

        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": part.number, "ETag": etags[part.number], "ChecksumCRC64NVME": part.checksum} for part in contents.parts
        ]
        try:
            self.client.complete_multipart_upload(
                Bucket=self.bucket,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                ChecksumCRC64NVME=contents.checksum,
                ChecksumType=TYPE,
                MpuObjectSize=contents.size_bytes,
            )
        except ClientError as exc:
            # Completed by another publisher of the same bytes, or by a call of ours whose answer was lost: the object tells.
            if code_of(exc) != "NoSuchUpload":
                raise


def _as_body(body: Slice) -> IO[bytes]:
    return cast("IO[bytes]", body)


def _checksum_of(upload: MultipartUploadTypeDef) -> str:
    return f"{upload.get('ChecksumAlgorithm', '')} {upload.get('ChecksumType', '')}".strip()


def _parts_of(page: ListPartsOutputTypeDef) -> Iterable[tuple[int, PartThere]]:
    for part in page.get("Parts", ()):
        yield part["PartNumber"], PartThere(part["Size"], part.get("ChecksumCRC64NVME"), part["ETag"])
