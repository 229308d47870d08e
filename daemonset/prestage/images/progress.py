"""How far an image is: bytes fetched, bytes of layers unpacked, both of what was missing when the stage began. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from prestage.images.names import OciDigest
from prestage.images.plan import Plan


@dataclass(slots=True)
class Progress:
    """Counts compressed bytes throughout: a manifest states those."""

    step: str = "resolve"
    """`resolve`, `download`, `unpack`, `done`, or why it stands still: `pull`, `pause`, `renewal`."""
    fetch_total: int = 0
    unpack_total: int = 0
    fetched_bytes: int = 0
    """Over the wire, of blobs that came whole; earlier attempts of this stage included."""
    _committed: int = 0
    _current: int = 0
    """Of the layer that is being unpacked."""
    _coming: dict[OciDigest, int] = field(default_factory=dict)
    """What came, whatever it waits for."""
    _kept: dict[OciDigest, int] = field(default_factory=dict)
    """Of that, what is containerd's: what is gone on from when an attempt is broken off."""
    _sizes: dict[OciDigest, int] = field(default_factory=dict)

    def begun(self, todo: Plan) -> None:
        """An attempt begins. What it has not to do any more, earlier ones of this stage have done."""
        missing = {blob.digest: blob.size_bytes for blob in todo.fetches}
        self._sizes |= missing
        self._kept = {digest: 0 if digest in missing else size for digest, size in self._sizes.items()}
        self._coming = dict(self._kept)
        self.fetch_total = sum(self._sizes.values())
        self.unpack_total = max(self.unpack_total, todo.unpack_bytes)
        self._committed, self._current = self.unpack_total - todo.unpack_bytes, 0
        self.step = "download" if todo.fetches else "unpack"

    def came(self, digest: OciDigest, so_far: int) -> None:
        """So many bytes of a blob are here."""
        self._coming[digest] = max(self._coming.get(digest, 0), min(so_far, self._sizes.get(digest, so_far)))
        if self.fetched == self.fetch_total:
            self.step = "unpack"

    def kept(self, digest: OciDigest, so_far: int) -> None:
        """So many of them are containerd's."""
        self._kept[digest] = max(self._kept.get(digest, 0), min(so_far, self._sizes.get(digest, so_far)))
        self.came(digest, so_far)

    def unpacking(self, so_far: int) -> None:
        """So many bytes of a layer's blob are unpacked."""
        self._current = max(self._current, so_far)

    def unpacked_one(self, size_bytes: int) -> None:
        """A layer is committed."""
        self._committed, self._current = self._committed + size_bytes, 0

    def stopped(self, why: str) -> None:
        """It stands still; what was not containerd's is fetched again."""
        self.step, self._coming = why, dict(self._kept)

    @property
    def fetched(self) -> int:
        """Of `fetch_total`."""
        return sum(self._coming.values())

    @property
    def unpacked(self) -> int:
        """Of `unpack_total`."""
        return self._committed + self._current

    def to_json(self) -> dict[str, object]:
        """The event of the command line."""
        return {
            "event": "progress",
            "step": self.step,
            "bytes": self.fetched,
            "total": self.fetch_total,
            "unpacked": self.unpacked,
            "unpack_total": self.unpack_total,
        }
