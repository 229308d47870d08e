"""Where things lie below the root; see docs/format.md. Pure paths, no disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import ArtifactId, BlobId, hex_of

FOLDERS = ("blobs", "ingest", "manifests", "refs", "views", "trees", "mounts", "holds", "wishes", "quarantine", "decisions")
ABOVE = "node"
"""What the node's agent keeps beside the store: theirs, and left alone."""
LOCKS = ("owner", "gate", "successor")
META = ".meta"
"""What a blob's meta is called after its blob."""
SOCKET = "agent.sock"
"""Where the agent listens unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one store."""

    root: Path

    @property
    def format(self) -> Path:
        """What kind of store this is."""
        return self.root / "format"

    @property
    def owner(self) -> Path:
        """Lock of whoever fetches, evicts or repairs."""
        return self.root / "owner"

    @property
    def gate(self) -> Path:
        """Lock that orders a hold against an evict."""
        return self.root / "gate"

    @property
    def successor(self) -> Path:
        """Lock of an agent that waits to become the owner."""
        return self.root / "successor"

    @property
    def wishes(self) -> Path:
        """What the agent was asked to stage and has not done yet."""
        return self.root / "wishes"

    @property
    def index(self) -> Path:
        """The cache that may be lost."""
        return self.root / "index.db"

    @property
    def blobs(self) -> Path:
        """Immutable content."""
        return self.root / "blobs"

    @property
    def ingests(self) -> Path:
        """What is being fetched."""
        return self.root / "ingest"

    @property
    def manifests(self) -> Path:
        """Manifests and bindings."""
        return self.root / "manifests"

    @property
    def refs(self) -> Path:
        """What refs were last resolved to."""
        return self.root / "refs"

    @property
    def views(self) -> Path:
        """Artifacts as trees."""
        return self.root / "views"

    @property
    def trees(self) -> Path:
        """What pods with equal volumes see, each once."""
        return self.root / "trees"

    @property
    def mounts(self) -> Path:
        """Clients' trees of several artifacts; of a pod, what is its own."""
        return self.root / "mounts"

    @property
    def holds(self) -> Path:
        """Who uses what."""
        return self.root / "holds"

    @property
    def quarantine(self) -> Path:
        """Bytes that were found wrong."""
        return self.root / "quarantine"

    def blob(self, blob: BlobId) -> Path:
        """Content of a blob."""
        name = hex_of(blob)
        return self.blobs.joinpath(name[:2], name)

    def meta(self, blob: BlobId) -> Path:
        """What is known of a blob."""
        path = self.blob(blob)
        return path.with_name(f"{path.name}{META}")

    def ingest(self, ingest_id: str) -> Path:
        """A file being fetched."""
        return self.ingests / ingest_id

    def manifest(self, artifact: ArtifactId) -> Path:
        """The artifact's files."""
        return self.manifests / f"{hex_of(artifact)}.json"

    def binding(self, artifact: ArtifactId) -> Path:
        """Which blob each file turned out to be."""
        return self.manifests / f"{hex_of(artifact)}.binding"

    def view(self, artifact: ArtifactId) -> Path:
        """Holds `current/` and `.prestage/current/`."""
        return self.views / hex_of(artifact)

    def current(self, artifact: ArtifactId) -> Path:
        """The tree itself."""
        return self.view(artifact) / "current"

    def side(self, artifact: ArtifactId) -> Path:
        """What the loader verifies the tree against."""
        return self.view(artifact) / ".prestage" / "current"

    def old_side(self, artifact: ArtifactId, generation: str) -> Path:
        """What the loader verifies an old generation of the tree against."""
        return self.view(artifact) / ".prestage" / generation

    def shared(self, key: str) -> Path:
        """What any number of pods see."""
        return self.trees / key

    def mount(self, hold: str) -> Path:
        """The tree of one hold; of a pod's, what is its own."""
        return self.mounts / hold

    def hold(self, artifact: ArtifactId) -> Path:
        """The holds of one artifact."""
        return self.holds / hex_of(artifact)
