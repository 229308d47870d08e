"""What a namespace may name, and at which Origin. Pure.

    CachePolicy with `origins`     every one that selects the namespace must allow (Origin, bucket or repository): intersection
    no such policy                 everything
    an annotation's ref            goes to the Origin that is marked default for its type; others need a StagedModel
    file://, http://               never

A wall filters, it grants nothing. `match` is compared with what a ref names at its origin: `org/name` of a hub, `bucket` and
`bucket/key` of S3, `host` and `host/path` of https, `registry/repository` of an image and, at an Origin with an endpoint,
`repository`. `*` stands for any text, everything else for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prestage.api.policies import CachePolicy, Origin, OriginType
from prestage.api.selecting import selects
from prestage.cacher.refs import FileRef, HfRef, HttpRef, NamedRef, S3Ref
from prestage.control.broker.refusals import No, denied, misconfigured

_SCHEMES: Final = {OriginType.S3: "s3://", OriginType.HUGGING_FACE: "hf://", OriginType.HTTPS: "https://"}


def type_of(ref: NamedRef) -> OriginType:
    """The type of Origin that serves it.

    Raises:
        No: none does.
    """
    match ref:
        case HfRef():
            return OriginType.HUGGING_FACE
        case S3Ref():
            return OriginType.S3
        case HttpRef():
            if ref.scheme != "https" or ref.query:
                raise misconfigured(
                    "NotHttps",
                    f"{ref.name}: only https:// without a query",
                    "a query may be a signature, and a ref is read by many",
                )
            return OriginType.HTTPS
        case FileRef():
            raise denied("NoFiles", "file:// is not served in a cluster", "put the model into an object store")


def check_plain(ref: NamedRef) -> None:
    """No path tricks: a server that tidies paths up would lead behind a wall.

    Raises:
        No: a `.` or `..` in it, or an empty part of a path.
    """
    named = {S3Ref: "key", HttpRef: "path", HfRef: "repo"}.get(type(ref))
    text = str(getattr(ref, named)) if named else ""
    decoded = re.sub(r"%([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), text)
    for shown in (text, decoded):
        parts = shown.strip("/").split("/") if shown else []
        if any(part in (".", "..") for part in parts) or "//" in shown or "\\" in shown or any(ord(c) < 32 for c in shown):
            raise misconfigured("PathTrick", f"{ref.name} has an empty part, '.', '..' or '\\' in its path", "name it plainly")


def subjects(ref: NamedRef) -> tuple[str, ...]:
    """What a policy's `match` may be about."""
    match ref:
        case HfRef():
            return (ref.repo,)
        case S3Ref():
            return (ref.bucket, f"{ref.bucket}/{ref.key}")
        case HttpRef():
            return (ref.host, f"{ref.host}{ref.path}")
    return ()


def origin_for(ref: NamedRef, origins: Iterable[Origin]) -> Origin:
    """The default Origin of an annotation's ref.

    Raises:
        No: none is marked default for its type, or several.
    """
    wanted = type_of(ref)
    found = [one for one in origins if one.spec.type is wanted and one.spec.default]
    if len(found) == 1:
        return found[0]
    if not found:
        hint = f"let an operator mark an Origin of type {wanted} with default: true, or name a StagedModel with an originRef"
        raise misconfigured("NoDefaultOrigin", f"no Origin is the default for {_SCHEMES[wanted]} refs", hint)
    names = ", ".join(sorted(one.metadata.name for one in found))
    raise misconfigured("TwoDefaultOrigins", f"several Origins are the default for {_SCHEMES[wanted]} refs: {names}", "leave one")


def origin_named(name: str, ref: NamedRef, origins: Iterable[Origin]) -> Origin:
    """The Origin of a StagedModel's originRef.

    Raises:
        No: there is none, or it speaks something else.
    """
    wanted = type_of(ref)
    found = next((one for one in origins if one.metadata.name == name), None)
    if found is None:
        raise misconfigured("NoSuchOrigin", f"there is no Origin {name!r}", "name one of `kubectl get origins`")
    if found.spec.type is not wanted:
        raise misconfigured(
            "OtherOrigin", f"Origin {name!r} is {found.spec.type}, the source {ref.name} is not", "name another Origin"
        )
    return found


def check_walls(ref: NamedRef, origin: Origin, policies: Iterable[CachePolicy], labels: Mapping[str, str]) -> None:
    """May a namespace with these labels name `ref` at `origin`?

    Raises:
        No: a policy says no, by its name.
    """
    check_plain(ref)
    check_subjects(ref.name, subjects(ref), origin, policies, labels)


def check_subjects(
    name: str, about: Sequence[str], origin: Origin, policies: Iterable[CachePolicy], labels: Mapping[str, str]
) -> None:
    """The same of whatever a `match` is about. Raises as `check_walls`."""
    for policy in policies:
        if policy.spec.origins is None or not selects(policy.spec.namespace_selector, labels):
            continue
        allowed = [one.match for one in policy.spec.origins.allow if one.origin_ref.name == origin.metadata.name]
        if not any(matches(pattern, subject) for pattern in allowed for subject in about):
            raise _refused(name, origin, policy, allowed)


def _refused(name: str, origin: Origin, policy: CachePolicy, allowed: Sequence[str]) -> No:
    here = f"CachePolicy {policy.metadata.name} does not allow {name} at Origin {origin.metadata.name}"
    shown = ", ".join(allowed[:5]) + (" …" if len(allowed) > 5 else "")
    hint = f"it allows there: {shown}" if allowed else f"it allows nothing at Origin {origin.metadata.name}: ask an operator"
    return denied("OriginNotAllowed", here, hint)


def matches(pattern: str, text: str) -> bool:
    """`*` for any text. Matched piece by piece: no pattern makes it slow."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    if not text.startswith(first):
        return False
    at, *middle_and_last = len(first), *rest
    *middle, last = middle_and_last
    for piece in middle:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(text) - at >= len(last) and text.endswith(last)
