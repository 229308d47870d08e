"""What S3 says: listings, object heads, error codes. Pure: bytes and headers in, values out.

XML is read as a flat stream of elements with bounded depth; document types and entities are refused, so that no answer can
make us expand, fetch or recurse.
"""

from __future__ import annotations

import binascii
import re
import urllib.parse
import xml.parsers.expat
from base64 import b64decode
from dataclasses import dataclass, field

from prestage.cacher.digests import Digest
from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.answers import OurFault, error_code, said
from prestage.cacher.origins.s3_addresses import ENDPOINT_IS

_MAX_DEPTH = 16
_CHECKSUM_BYTES = {"crc64nvme": 8, "crc32c": 4, "crc32": 4}
"""By preference: the first one stated is the one that is checked."""
REQUESTER_PAYS = "PRESTAGE_S3_REQUESTER_PAYS"
_MULTIPART_ETAG = re.compile(r'"?[0-9a-f]{32}-[0-9]+"?')


class NotXml(ValueError):
    """Not the XML of an S3 answer."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of ListObjectsV2."""

    objects: tuple[Listed, ...]
    next_token: str | None


@dataclass(slots=True)
class _Reader:
    """Collects the text of `Contents/*` and of the top level's own elements."""

    path: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    top: dict[str, str] = field(default_factory=dict)
    contents: list[dict[str, str]] = field(default_factory=list)

    def start(self, name: str, _attributes: object) -> None:
        self.path.append(name.rpartition(":")[2])
        self.text.clear()
        if len(self.path) > _MAX_DEPTH:
            raise NotXml("too deep")
        if self.path[1:] == ["Contents"]:
            self.contents.append({})

    def data(self, text: str) -> None:
        self.text.append(text)

    def end(self, _name: str) -> None:
        value = "".join(self.text)
        if len(self.path) == 2:
            self.top[self.path[1]] = value
        elif len(self.path) == 3 and self.path[1] == "Contents":
            self.contents[-1][self.path[2]] = value
        self.path.pop()
        self.text.clear()

    def refuse(self, *_: object) -> None:
        raise NotXml("a document type")


def read_page(raw: bytes) -> Page:
    """One page of a listing.

    Raises:
        NotXml: garbage, or XML that is not a listing.
    """
    reader = _Reader()
    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reader.refuse
    try:
        parser.Parse(raw, True)
    except (xml.parsers.expat.ExpatError, UnicodeError, LookupError) as exc:
        raise NotXml(str(exc)) from exc
    if "IsTruncated" not in reader.top and "Name" not in reader.top:
        raise NotXml("not a listing")
    is_encoded = reader.top.get("EncodingType") == "url"
    objects = tuple(_listed(row, is_encoded=is_encoded) for row in reader.contents)
    is_truncated = reader.top.get("IsTruncated") == "true"
    token = reader.top.get("NextContinuationToken") or None
    if is_truncated and token is None:
        raise NotXml("a listing goes on, but does not say where")
    return Page(objects, token if is_truncated else None)


def _listed(row: dict[str, str], *, is_encoded: bool) -> Listed:
    key, size = row.get("Key", ""), row.get("Size", "")
    if not key or not re.fullmatch(r"[0-9]{1,16}", size):
        raise NotXml(f"an object without key or size: {key[:60]!r}")
    # S3 encodes as forms do: a space is a plus.
    return Listed(urllib.parse.unquote_plus(key) if is_encoded else key, int(size))


def object_entry(path: str, head: ResponseHead) -> FileEntry | None:
    """The file that a HEAD describes, None when it states no size. A COMPOSITE checksum is no digest of the content."""
    headers = head.headers
    size = headers.get("content-length", "")
    if not re.fullmatch(r"[0-9]{1,16}", size):
        return None
    version = headers.get("x-amz-version-id")
    etag = headers.get("etag") or None
    is_whole = _is_whole(headers.get("x-amz-checksum-type", ""), etag)
    return FileEntry(
        path,
        int(size),
        digest=_stated(headers.get("x-amz-checksum-sha256"), "sha256", 32) if is_whole else None,
        checksum=_checksum(head) if is_whole else None,
        etag=etag,
        # "null" names whatever was written last while versioning was off: it pins nothing.
        version=version if version != "null" else None,
        modified=headers.get("last-modified") or None,
    )


def _is_whole(stated_type: str, etag: str | None) -> bool:
    if stated_type:
        return stated_type.upper() == "FULL_OBJECT"
    return etag is None or _MULTIPART_ETAG.fullmatch(etag) is None


def _checksum(head: ResponseHead) -> Digest | None:
    for name, length in _CHECKSUM_BYTES.items():
        if stated := _stated(head.headers.get(f"x-amz-checksum-{name}"), name, length):
            return stated
    return None


def _stated(value: str | None, name: str, length: int) -> Digest | None:
    """Base64 as S3 states it -> hex; None for what is not a checksum of that kind (`…-3` is one over parts)."""
    try:
        raw = b64decode(value or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    return Digest(f"{name}:{raw.hex()}") if len(raw) == length else None


def other_region(head: ResponseHead, body: bytes) -> str | None:
    """The region that this bucket is in, where S3 refuses a request for another one."""
    if head.status not in (301, 307, 400, 403):
        return None
    stated = head.headers.get("x-amz-bucket-region", "")
    if not stated and error_code(head, body) in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        found = re.search(rb"<Region>([^<]+)</Region>", body) or re.search(rb"expecting '([a-z0-9-]+)'", body)
        stated = found.group(1).decode("ascii", "replace") if found else ""
    return stated if re.fullmatch(r"[a-z0-9-]{1,32}", stated) else None


def refusal(
    subject: str, head: ResponseHead, body: bytes, *, used: str, clock_off_s: float = 0.0, pays: bool = False
) -> PrestageError:
    """The error of an answer that will not pass. `used`: kind and source of the credential, never its value. `pays`: the
    requester offered to pay."""
    code, text = error_code(head, body), said(head, body)
    why = f" ({text or code or head.status})"
    if code == "NoSuchBucket":
        return NotFound(f"{subject}: no such bucket", hint=f"check the bucket's name and {ENDPOINT_IS}")
    if code == "NoSuchVersion" or (head.status == 405 and "x-amz-delete-marker" in head.headers):
        return NotFound(f"{subject}: no such version{why}", hint="leave ?versionId= out for the newest one")
    if head.status == 404:
        return NotFound(f"{subject} does not exist{why}", hint="a prefix ends in a slash: s3://bucket/prefix/")
    if code == "RequestTimeTooSkewed":
        return OurFault(f"{subject}: this machine's clock is {abs(clock_off_s):.0f} s off{why}", hint="set it (NTP)")
    if code in ("ExpiredToken", "TokenRefreshRequired", "RequestExpired"):
        return Denied(f"{subject}: {used}: they have expired{why}", hint="get new ones (aws sso login, a new session token)")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "XAmzAccessKeyIdNotFound"):
        return Denied(f"{subject}: {used}: not accepted{why}", hint="check that key, secret and session token belong together")
    if code == "InvalidObjectState":
        return Unavailable(f"{subject} is archived{why}", hint="restore the object first")
    if head.status in (401, 403):
        hint = "ask for s3:GetObject and s3:ListBucket; without the latter a missing key looks like this too"
        if not pays and head.status == 403:
            hint += f"; if the bucket lets the requester pay, set {REQUESTER_PAYS}=1 (you are billed for the transfer)"
        return Denied(f"{subject}: {used}: not allowed{why}", hint=hint)
    if head.status == 301:
        return Misconfigured(
            f"{subject}: the bucket is elsewhere{why}",
            hint=f"set its region (AWS_REGION; in a cluster the Origin's) or {ENDPOINT_IS}",
        )
    if 400 <= head.status < 500:
        return Misconfigured(
            f"{subject}: the server refuses the request: {head.status}{why}", hint="check bucket, key and version"
        )
    return Unavailable(f"{subject}: the server answered {head.status}{why}", hint="run the same command again later")
