"""The narrowest IAM session policy that lets somebody read the files of one manifest, and nothing else. Pure.

    exact       the objects, each by its key; where the manifest pins versions, these versions only
    widened     too long for STS: keys that begin alike become one pattern, the longest common beginnings first

A session policy takes away only: what the role itself may not do stays forbidden. STS takes 2048 characters of it.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prestage.cacher.errors import Misconfigured
from prestage.cacher.manifest import Manifest

MAX_CHARS = 2048
"""Of an inline session policy (AssumeRole, parameter Policy)."""
_LEAST_CHARS = 20
"""Of a resource in the document: its quotes, a comma, and what every ARN begins with."""


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """A policy, and how exactly it names what it allows."""

    document: str
    resources: tuple[str, ...]
    """Keys and patterns (with `*` at the end) that may be read, escaped as in the document."""
    is_exact: bool
    """False: a pattern may match an object that is not of the manifest. Pinned versions are exact whatever the pattern."""
    pins_versions: bool
    """Only the versions of the manifest may be read."""


def session_policy(manifest: Manifest, *, partition: str = "aws", max_chars: int = MAX_CHARS) -> SessionPolicy:
    """Allow reading every file of an s3 manifest, at its version where it has one, within `max_chars` characters.

    Raises:
        Misconfigured: no s3 manifest, no files, or not even one pattern for all of them fits.
    """
    scheme, _, place = manifest.authority.partition(":")
    if scheme != "s3" or not manifest.files:
        raise Misconfigured(f"{manifest.authority} is no S3 bucket with files", hint="only s3:// artifacts have session policies")
    bucket = place.rpartition("/")[2]
    keys = sorted(manifest.base + file.path for file in manifest.files)
    versions = sorted({file.version for file in manifest.files if file.version is not None})
    pinned = versions if all(file.version is not None for file in manifest.files) else []
    actions = ["s3:GetObject", "s3:GetObjectVersion"] if versions else ["s3:GetObject"]
    for of_versions in [pinned, []] if pinned else [[]]:
        for resources in _candidates(keys, manifest.base, most=max_chars // _LEAST_CHARS):
            document = _document([f"arn:{partition}:s3:::{bucket}/{one}" for one in resources], of_versions, actions)
            if len(document) <= max_chars:
                is_exact = bool(of_versions) or not any(one.endswith("*") for one in resources)
                return SessionPolicy(document, tuple(resources), is_exact, bool(of_versions))
    raise Misconfigured(
        f"no session policy of {max_chars} characters covers {len(keys)} objects below {manifest.base!r}",
        hint="stage a shorter prefix",
    )


def listing_policy(bucket: str, key: str, *, partition: str = "aws") -> SessionPolicy:
    """Allow resolving what `key` names (a prefix ends in a slash, or is empty): list there, and read there. For a manifest
    that is not known yet.

    Raises:
        Misconfigured: it does not fit.
    """
    is_prefix = not key or key.endswith("/")
    resource = f"{_escaped(key)}*" if is_prefix else _escaped(key)
    arn = f"arn:{partition}:s3:::{bucket}"
    reading = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:GetObjectVersion"], "Resource": [f"{arn}/{resource}"]}
    listing = {
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": [arn],
        "Condition": {"StringLike": {"s3:prefix": [resource]}},
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [reading, listing]}, separators=(",", ":"))
    if len(document) > MAX_CHARS:
        raise Misconfigured(f"no session policy fits the prefix {key[:80]!r}…", hint="stage a shorter prefix")
    return SessionPolicy(document, (resource,), is_exact=not is_prefix, pins_versions=False)


def _candidates(keys: Sequence[str], base: str, *, most: int) -> Iterator[list[str]]:
    """Sets of at most `most` resources that cover `keys` (sorted), each wider than the one before; the last is all of `base`."""
    shared = [_common(left, right) for left, right in itertools.pairwise(keys)]
    by_length = sorted(shared)
    if len(keys) <= most:
        yield [_escaped(key) for key in keys]
    for length in sorted(set(shared), reverse=True):
        if length > len(base) and 1 + bisect.bisect_left(by_length, length) <= most:
            yield _grouped(keys, shared, length)
    yield [f"{_escaped(base)}*"]


def _grouped(keys: Sequence[str], shared: Sequence[int], length: int) -> list[str]:
    """Neighbours that share their first `length` characters as one pattern."""
    found, first = list[str](), 0
    for index in range(1, len(keys) + 1):
        if index == len(keys) or shared[index - 1] < length:
            alone, common = index - first == 1, _common(keys[first], keys[index - 1])
            found.append(_escaped(keys[first]) if alone else _escaped(keys[first][:common]) + "*")
            first = index
    return found


def _common(left: str, right: str) -> int:
    """Characters that both begin with."""
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _document(arns: Sequence[str], versions: Sequence[str], actions: Sequence[str]) -> str:
    reading: dict[str, object] = {"Effect": "Allow", "Action": list(actions), "Resource": list(arns)}
    if versions:
        # Version ids are unique in a bucket: one list of them for all keys allows no more than a pair for each.
        reading |= {"Action": ["s3:GetObjectVersion"], "Condition": {"StringEquals": {"s3:VersionId": list(versions)}}}
    return json.dumps({"Version": "2012-10-17", "Statement": [reading]}, separators=(",", ":"))


def _escaped(key: str) -> str:
    """`*`, `?` and `$` of a key stand for themselves (IAM policy variables)."""
    return "".join(f"${{{c}}}" if c in "*?$" else c for c in key)
