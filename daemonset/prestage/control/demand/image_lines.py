"""Images among demand: how a template's image is named in records, and which of a pod's images may be staged. Pure.

    Line(uid, hash, "image/<architecture>/<crc of the ref>", "oci://…")     no alias of a model has a slash

A record is made once for a template, or a generation of a schedule: whose tag moved since is not staged anew; then the pod's own
pull decides. Never staged: what is never pulled (imagePullPolicy: Never), and what names no image. Staged, and waited for by
nobody: a tag that the kubelet looks up at every start (imagePullPolicy: Always).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.cacher.errors import Misconfigured
from prestage.control.demand.records import Line, Question
from prestage.images.names import SCHEME, parse_in_pod

ARCHITECTURE: Final = "kubernetes.io/arch"
IMAGES_MAX: Final = 32
"""Of one pod."""
_ALIAS: Final = "image/"


@dataclass(frozen=True, slots=True)
class PulledImages:
    """Of one pod. `refs`: as oci://…, each once, in the order in which they are pulled."""

    refs: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    moving: frozenset[str] = frozenset()
    """Of these, tags that the kubelet looks up at every start: what was staged may be another image by then."""

    @property
    def awaited(self) -> tuple[str, ...]:
        """What a pod may be held for, and its condition speaks of."""
        return tuple(ref for ref in self.refs if ref not in self.moving)


def pulled_images(spec: Mapping[str, object]) -> PulledImages:
    """Of a pod's spec: image volumes, init containers, containers."""
    found: dict[str, None] = {}
    moving = set[str]()
    for name, policy in _named(spec):
        if policy != "Never" and (ref := ref_of(name)) is not None:
            found[ref] = None
            if _is_moving(ref, policy):
                moving.add(ref)
    secrets = (str(one.get("name", "")) for one in _maps(spec.get("imagePullSecrets")))
    return PulledImages(tuple(found)[:IMAGES_MAX], tuple(dict.fromkeys(filter(None, secrets))), frozenset(moving))


def _is_moving(ref: str, policy: str) -> bool:
    """As the API server completes it: latest is Always. A digest is what it is."""
    return "@" not in ref and (policy == "Always" or (not policy and ref.endswith(":latest")))


def ref_of(image: str) -> str | None:
    """As a container names it. None: it names no image."""
    try:
        return f"{SCHEME}{parse_in_pod(image)}"
    except Misconfigured:
        return None


def image_question(namespace: str, uid: str, hash_: str, ref: str, architecture: str, secrets: tuple[str, ...]) -> Question:
    """For one architecture."""
    return Question(namespace, image_line(uid, hash_, ref, architecture), pull_secrets=secrets)


def image_line(uid: str, hash_: str, ref: str, architecture: str) -> Line:
    """How it is recorded."""
    return Line(uid, hash_, f"{_ALIAS}{architecture[:16]}/{zlib.crc32(ref.encode()):08x}", ref)


def repository_of(ref: str) -> str:
    """Without tag and digest."""
    body = ref.partition("@")[0]
    head, colon, tag = body.rpartition(":")
    return head if colon and "/" not in tag else body


def plain(ref: str) -> str:
    """As it stands in a pod."""
    return ref.removeprefix(SCHEME)


def is_image(line: Line) -> bool:
    """Of an image, not of a model."""
    return line.alias.startswith(_ALIAS)


def platform_in(line: Line) -> str | None:
    """Of an image: linux/amd64."""
    return platform_of(line.alias)


def platform_of(alias: str) -> str | None:
    """The same of a record's alias; None: of a model."""
    return f"linux/{alias.split('/')[1]}" if alias.startswith(_ALIAS) else None


def shown(line: Line) -> str:
    """For people: what it is, by the name that it has in the pod."""
    return "image" if is_image(line) else f"model {line.alias}"


def _named(spec: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for volume in _maps(spec.get("volumes")):
        image = volume.get("image")
        if isinstance(image, Mapping):
            yield str(image.get("reference") or ""), str(image.get("pullPolicy") or "")
    for field in ("initContainers", "containers"):
        for one in _maps(spec.get(field)):
            yield str(one.get("image") or ""), str(one.get("imagePullPolicy") or "")


def _maps(given: object) -> list[Mapping[str, object]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
