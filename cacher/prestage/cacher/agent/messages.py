"""What goes over the wire. The one source of what is accepted, what is answered and what the OpenAPI document says."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

PriorityWord = Literal["waiting-pod", "declared", "follow-on"]
PRIORITIES: dict[PriorityWord, int] = {"waiting-pod": 0, "declared": 10, "follow-on": 20}
ArtifactText = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
NameText = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Text = Annotated[str, Meta(min_length=1, max_length=8192)]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client sends: an unknown field is an error."""


class StageRequest(Request):
    """Make the store hold `ref`."""

    ref: Text
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    priority: PriorityWord = "declared"
    keep: bool = False
    """Go on when nobody listens any more, over restarts, and try again what may pass."""


class HoldRequest(Request):
    """Keep `ref` (a ref or an artifact) from being evicted."""

    ref: Text
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    kind: Literal["pin", "ttl", "run"] = "ttl"
    ttl_s: Annotated[float, Meta(gt=0, le=10 * 365 * 86400)] = 3600.0
    """Of a ttl."""
    note: Annotated[str, Meta(max_length=200)] = ""
    """A run lasts as long as the calling process."""


class NamedRequest(Request):
    """Something about `ref` (a ref or an artifact)."""

    ref: Text
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class VerifyRequest(Request):
    """Check `ref`, or the whole store."""

    ref: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class AdoptRequest(Request):
    """Make an artifact of what lies at `path` on the agent's node."""

    path: Text
    ref: str = ""
    """Which revision of a Hugging Face cache."""
    take: bool = False
    """Move the files in."""


class ImportRequest(Request):
    """Make the store hold what `prestage export` wrote to `path`."""

    path: Text


class ReportRequest(Request):
    """A reader found wrong bytes in a chunk."""

    artifact: ArtifactText
    path: Text
    offset: Annotated[int, Meta(ge=0)] = 0
    """In bytes: where the chunk begins."""


class Problem(msgspec.Struct):
    """Why it did not work: see the exit codes in docs/cli.md for `kind`."""

    kind: str
    message: str
    hint: str | None = None


class Resolved(msgspec.Struct):
    """Where an artifact lies."""

    artifact: str
    path: str


class Held(msgspec.Struct):
    """A hold that was made."""

    artifact: str
    hold: str
    path: str


class Evicted(msgspec.Struct):
    """What letting go gave back."""

    artifact: str
    freed_bytes: int


class Unpinned(msgspec.Struct):
    """How many pins were taken off."""

    artifact: str
    pins: int


class Artifact(msgspec.Struct):
    """One artifact of the store."""

    artifact: str
    ref: str | None
    files: int
    bytes: int
    state: str
    holds: list[dict[str, str | int | float | None]]
    last_used: float


class StageView(msgspec.Struct):
    """One stage."""

    id: str
    ref: str
    state: str
    priority: str
    keep: bool
    paused: bool
    since: float
    tries: int
    waiting: int
    """Who listens."""
    artifact: str | None
    bytes: int
    total: int
    bytes_per_s: int
    problem: Problem | None


class UsageView(msgspec.Struct):
    """The disk, in bytes."""

    used: int
    reserved: int
    free: int
    margin: int
    limit: int
    room: int


class Status(msgspec.Struct):
    """The agent at a glance."""

    version: str
    pid: int
    root: str
    started_at: float
    ready: bool
    paused: bool
    usage: UsageView
    artifacts: int
    stages: list[StageView]
    warnings: list[str]
    metrics: str | None
    """`host:port` of metrics and health."""
    serving_port: int | None
    """Where blobs are served to peers."""


class Explained(msgspec.Struct):
    """Why an artifact is here, or is not."""

    artifact: str | None
    ref: str | None
    state: str
    """`staged`, `partial`, `damaged`, `staging` or `absent`."""
    why: list[str]
    """Sentences: who holds it, what is being done about it, when it would go."""
    stage: StageView | None
    history: list[dict[str, str | int | float | None]]
    """What the agent did about it, oldest first; decisions over restarts too."""


class SocketRequest(Request):
    """Listen at `path` for one pod or client: resolve and report, for these artifacts only."""

    path: Text
    artifacts: Annotated[dict[NameText, ArtifactText], Meta(min_length=1, max_length=100)]
    """Name -> artifact."""
    mount: Annotated[str, Meta(max_length=4096)] = ""
    """Where the client sees the directory that holds `<name>/`; empty: paths as on the node."""
    flat: bool = False
    """It sees the one artifact at `mount` itself."""


class SocketName(Request):
    """One that was opened."""

    path: Text


class TreePart(Request):
    """One artifact of a tree."""

    name: NameText
    """Its folder."""
    artifact: ArtifactText
    repo: Annotated[str, Meta(max_length=200)] = ""
    """The model repository as which .hf/ shows it; empty: the one it came from, if it came from a hub."""
    revision: Annotated[str, Meta(max_length=200)] = ""
    """The branch, tag or commit by which a foreign client asks for it."""


class TreeRequest(Request):
    """Put artifacts together for a mount, and hold them until the tree is dropped."""

    parts: Annotated[list[TreePart], Meta(min_length=1, max_length=32)]
    pod: Annotated[str, Meta(min_length=1, max_length=64)]
    """Its UID."""
    target: Annotated[str, Meta(min_length=1, max_length=4096, pattern="^/")]
    """Where the tree will be bound on the node; one target has one tree."""
    mount_path: Annotated[str, Meta(max_length=1024)] = ""
    """Where the pod sees it."""
    flat: bool = False
    """The one artifact's files at the top."""


class TreeView(msgspec.Struct):
    """The tree of a mount."""

    hold: str
    path: str
    """What is to be bound, read-only."""
    pod: str
    target: str
    mount_path: str
    flat: bool
    parts: list[TreePart]
    this_boot: bool
    """It was asked for since the machine was booted."""
    held_s: float
    own: str = ""
    """What is to be bound over `.prestage/` in it, read-only: this pod's own. Empty: all of it is."""


class Reported(msgspec.Struct):
    """What a second look found."""

    damaged: bool
    message: str
