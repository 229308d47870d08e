"""What a Hugging Face Hub says: commits, tree listings, Link headers, refusals. Pure: JSON and headers in, values out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from prestage.cacher.digests import Digest
from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.manifest import FileEntry
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.answers import error_code, said

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:\"[^\"]*\"|[^\s;,\"]+))*)")
_REL = re.compile(r";\s*rel\s*=\s*\"?([^\";]*)\"?", re.IGNORECASE)


class NoRepository(NotFound):
    """There is none of that name, or the hub does not say so to who may not read it."""


class NotHub(ValueError):
    """Not an answer of a Hub."""


@dataclass(frozen=True, slots=True)
class Token:
    """`value` is secret. `source` says where it came from, or that there is none."""

    value: str | None
    source: str


def commit_of(raw: bytes) -> str:
    """The commit in the answer to a revision call.

    Raises:
        NotHub: no 40 hex digits in there.
    """
    sha = _json_object(raw).get("sha")
    if not isinstance(sha, str) or not COMMIT.fullmatch(sha):
        raise NotHub("it names no commit")
    return sha


def tree_files(raw: bytes) -> list[FileEntry]:
    """The files of one page of a tree listing; directories are left out.

    Raises:
        NotHub: not a list of items with path, size and object id.
    """
    try:
        items = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise NotHub("it is not JSON") from exc
    if not isinstance(items, list):
        raise NotHub("it is not a list")
    return [_entry(item) for item in items if not (isinstance(item, dict) and item.get("type") == "directory")]


def _entry(item: object) -> FileEntry:
    if not isinstance(item, dict) or item.get("type") != "file":
        raise NotHub("an item is neither file nor directory")
    path, size, lfs = item.get("path"), item.get("size"), item.get("lfs")
    if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise NotHub("a file has no path or no size")
    if lfs is None:
        oid = item.get("oid")
        if not isinstance(oid, str) or not COMMIT.fullmatch(oid):
            raise NotHub(f"{path[:60]!r} has no object id")
        return FileEntry(path, size, digest=Digest(f"git-sha1:{oid}"))
    oid = lfs.get("oid") if isinstance(lfs, dict) else None
    large = lfs.get("size", size) if isinstance(lfs, dict) else None
    sha256 = oid.removeprefix("sha256:") if isinstance(oid, str) else ""
    if not _SHA256.fullmatch(sha256) or large != size:
        raise NotHub(f"{path[:60]!r} is in LFS without a SHA-256 or with two sizes")
    return FileEntry(path, size, digest=Digest(f"sha256:{sha256}"))


def next_link(value: str) -> str | None:
    """The `rel="next"` of a Link header (RFC 8288), None when this was the last page."""
    for found in _LINK.finditer(value[:65536]):
        rel = _REL.search(found.group(2))
        if rel is not None and "next" in rel.group(1).lower().split():
            return found.group(1)
    return None


def _json_object(raw: bytes) -> Mapping[str, object]:
    try:
        doc = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise NotHub("it is not JSON") from exc
    if not isinstance(doc, dict):
        raise NotHub("it is not an object")
    return doc


def refusal(
    repository: str, head: ResponseHead, body: bytes, *, token: Token, page: str, path: str | None = None
) -> PrestageError:
    """The error of an answer that will not pass. `path`: the file that was asked for, if one was; `page`: where a person asks
    for access."""
    code, text = error_code(head, body), said(head, body)
    subject = repository if path is None else f"{repository}: {path}"
    why = f" ({text})" if text else ""
    if code == "GatedRepo" or (head.status == 403 and "gated" in text.lower()):
        hint = f"ask for access at {page}" + ("" if token.value else ", then set HF_TOKEN")
        return Denied(f"{repository} is gated, asked {token.source}{why}", hint=hint)
    if code == "RevisionNotFound":
        return NotFound(f"{repository}: no such revision{why}", hint="name a branch, a tag or a commit of this repository")
    if code == "EntryNotFound":
        return NotFound(f"{subject}: no such file in this revision{why}", hint="check the revision and the patterns")
    if head.status == 401 and token.value and (not code or "credentials" in text.lower()):
        return Denied(f"{subject}: asked {token.source}, which is not accepted{why}", hint="get a valid token (hf auth login)")
    if code == "RepoNotFound" or head.status == 404:
        hint = "check the name" if token.value else "check the name; if it is private, set HF_TOKEN"
        kind = NoRepository if code else NotFound  # a proxy's bare 404 is not the hub's word
        return kind(f"{repository}: no such repository, or it is private; asked {token.source}", hint=hint)
    if head.status in (401, 403, 451):
        return Denied(f"{subject}: refused with {head.status}, asked {token.source}{why}", hint=f"see {page}")
    if 400 <= head.status < 500:
        return Misconfigured(f"{subject}: the hub refuses the request: {head.status}{why}", hint="check the ref and HF_ENDPOINT")
    return Unavailable(f"{subject}: the hub answered {head.status}{why}", hint="run the same command again later")
