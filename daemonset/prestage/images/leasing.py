"""What our leases in containerd are called, what they say of themselves, when they end. Pure.

    prestage-<16 hex of the artifact>-<n>     n grows with every renewal: a lease cannot be changed, only made anew
    containerd.io/gc.expire                   when containerd may drop it: a node whose agent is gone keeps nothing for ever
    prestage.dev/…                            what it is for, for whoever finds it

A process that is killed while it renews leaves two of one artifact: the newest is current, the others' resources are its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prestage.cacher.digests import ArtifactId
from prestage.images.chains import ChainId
from prestage.images.containerd.leases import Lease
from prestage.images.image import Image
from prestage.images.names import OciDigest

EXPIRE = "containerd.io/gc.expire"
_OWN = "prestage.dev/"
_ARTIFACT, _NAME, _ROOTS, _CONFIG = f"{_OWN}artifact", f"{_OWN}image", f"{_OWN}roots", f"{_OWN}config"
_TOP, _SNAPSHOTTER, _SIZE = f"{_OWN}top", f"{_OWN}snapshotter", f"{_OWN}size"
_ID = re.compile(r"prestage-[0-9a-f]{16}-([0-9]{1,9})")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Terms:
    """What an image's lease says."""

    artifact: ArtifactId
    name: str
    """As in a pod."""
    roots: tuple[OciDigest, ...]
    config: OciDigest
    top: ChainId
    snapshotter: str
    size_bytes: int
    """Of its blobs, compressed."""

    @staticmethod
    def of(image: Image, snapshotter: str) -> Terms:
        """Of an image that is to be staged."""
        return Terms(image.artifact, str(image.name), image.roots, image.config.digest, image.top, snapshotter, image.size_bytes)


@dataclass(frozen=True, slots=True)
class ImageLease:
    """One of ours."""

    id: str
    number: int
    expires_at: float
    """Seconds since the epoch; 0: it does not say."""
    terms: Terms

    def ends_before(self, at: float) -> bool:
        """Containerd may drop it by then."""
        return self.expires_at < at

    def lease(self) -> Lease:
        """As containerd keeps it."""
        terms = self.terms
        labels = {
            EXPIRE: datetime.fromtimestamp(self.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            _ARTIFACT: terms.artifact,
            _NAME: terms.name,
            _ROOTS: ",".join(terms.roots),
            _CONFIG: terms.config,
            _TOP: terms.top,
            _SNAPSHOTTER: terms.snapshotter,
            _SIZE: str(terms.size_bytes),
        }
        return Lease(self.id, labels)


def fresh(terms: Terms, number: int, expires_at: float) -> ImageLease:
    """The lease of that number."""
    return ImageLease(f"prestage-{terms.artifact.partition(':')[2][:16]}-{number}", number, float(int(expires_at)), terms)


def read(lease: Lease) -> ImageLease | None:
    """One of ours, None for another client's or one that cannot be read."""
    found, labels = _ID.fullmatch(lease.id), lease.labels
    roots = tuple(OciDigest(root) for root in labels.get(_ROOTS, "").split(","))
    digests = (labels.get(_ARTIFACT, ""), labels.get(_CONFIG, ""), labels.get(_TOP, ""), *roots)
    size, snapshotter = labels.get(_SIZE, ""), labels.get(_SNAPSHOTTER, "")
    if found is None or not all(map(_DIGEST.fullmatch, digests)) or not re.fullmatch(r"[0-9]{1,16}", size) or not snapshotter:
        return None
    artifact, config, top, *_ = digests
    terms = Terms(ArtifactId(artifact), labels.get(_NAME, ""), roots, OciDigest(config), ChainId(top), snapshotter, int(size))
    return ImageLease(lease.id, int(found.group(1)), _moment(labels), terms)


def ours(leases: Iterable[Lease], artifact: ArtifactId | None = None) -> Mapping[ArtifactId, Sequence[ImageLease]]:
    """Those of images, by artifact, the newest first."""
    found: dict[ArtifactId, list[ImageLease]] = {}
    for lease in leases:
        one = read(lease)
        if one is not None and artifact in (None, one.terms.artifact):
            found.setdefault(one.terms.artifact, []).append(one)
    return {key: sorted(some, key=lambda one: one.number, reverse=True) for key, some in found.items()}


def _moment(labels: Mapping[str, str]) -> float:
    try:
        return datetime.strptime(labels.get(EXPIRE, ""), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
