"""What became of a staged image: pulled, not yet, or never, because its tag was another image by the time of the pull. Pure.

    an image record whose target is our index or manifest                            USED
    a record of our tag with another target, made or changed after we had staged     MOVED: the kubelet's pull decided
    else                                                                             UNUSED: nothing came yet

A record that is older than our staging says nothing: the tag had moved before, and that is why we staged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from prestage.cacher.errors import Misconfigured
from prestage.images.names import SCHEME, OciDigest, parse_oci

_DOCKER, _LIBRARY = "docker.io", "library"
_CHILD = "containerd.io/gc.ref.content."


class Use(StrEnum):
    """See the module."""

    UNUSED = "unused"
    USED = "used"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Record:
    """An image as containerd lists it: a pull of it has ended."""

    name: str
    target: OciDigest
    changed_at: float


@dataclass(frozen=True, slots=True)
class Waste:
    """What a pull did not find of use. `other`: index or manifest of what it brought instead."""

    use: Use
    other: OciDigest | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """All of them."""

    by_name: Mapping[str, Record] = field(default_factory=dict)

    def waste(self, name: str, roots: Collection[OciDigest], staged_at: float) -> Waste:
        """`name` and `roots` as a lease has them."""
        if any(one.target in roots for one in self.by_name.values()):
            return Waste(Use.USED)
        record = self.by_name.get(tag_of(name) or "")
        if record is None or record.changed_at <= staged_at:
            return Waste(Use.UNUSED)
        return Waste(Use.MOVED, record.target)


def tag_of(name: str) -> str | None:
    """What a pull by tag calls it; None: it has no tag, and so cannot move."""
    try:
        image = parse_oci(f"{SCHEME}{name}")
    except Misconfigured:
        return None
    if image.tag is None:
        return None
    implied = image.registry == _DOCKER and "/" not in image.repository
    return f"{image.registry}/{f'{_LIBRARY}/' if implied else ''}{image.repository}:{image.tag}"


def children(labels: Mapping[str, str]) -> Collection[str]:
    """What a pull has made an index or a manifest keep: manifests, config, layers."""
    return [digest for label, digest in labels.items() if label.startswith(_CHILD)]
