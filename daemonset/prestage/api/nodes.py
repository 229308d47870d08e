"""NodeCache: the only wire between planner and agent. Holds digests, never tenants' names, refs, messages or secrets.

State changes only: at most one heartbeat a minute, at most 64 KiB.
An absent, empty or re-created one means "keep, evict nothing".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec

from prestage.api.marks import AGE, Column, Kind, Rule, about, keyed, number, quantity, ready_column, text, whole
from prestage.api.rules import exactly_with
from prestage.api.values import WORD_PATTERN, Conditions, Digest, Generation, Moment, Stored, Value

ENTRIES_MAX = 512
IMAGES_MAX = 128
"""Of those that a node tells: the images container's, where one runs."""
MODELS_MAX = ENTRIES_MAX - IMAGES_MAX
"""The agent's, beside it."""


class Action(StrEnum):
    """Stage: fetch, then as Keep. Keep: not evicted. Release: evict when room is needed, these first.

    Not listed while the list is not empty: as Release, after all of those. Holds win over all.
    """

    STAGE = "Stage"
    KEEP = "Keep"
    RELEASE = "Release"


class EntryType(StrEnum):
    """Where it goes. Model: the agent's store, whatever it is. Image: layers into containerd, by the `images` container."""

    MODEL = "Model"
    IMAGE = "Image"


class SourceType(StrEnum):
    """Where bytes may come from."""

    PEER = "Peer"
    ORIGIN = "Origin"


class State(StrEnum):
    """Of an artifact on the node."""

    PENDING = "Pending"
    STAGING = "Staging"
    WARM = "Warm"
    FAILED = "Failed"
    RELEASING = "Releasing"


class Step(StrEnum):
    """Of a stage."""

    RESOLVE = "Resolve"
    DOWNLOAD = "Download"
    UNPACK = "Unpack"
    VERIFY = "Verify"


class ErrorClass(StrEnum):
    """What is to be done next: prestage.cacher.errors. The text is told to namespaced objects only."""

    MISCONFIGURED = "Misconfigured"
    NOT_FOUND = "NotFound"
    DENIED = "Denied"
    CORRUPT = "Corrupt"
    BUSY = "Busy"
    FULL = "Full"
    UNAVAILABLE = "Unavailable"
    BUG = "Bug"


class Source(Value, frozen=True, kw_only=True):
    """One source."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_with("node", "type", "Peer", message="write node with type: Peer, and only with it"),
    )

    type: Annotated[SourceType, about("Which kind.")]
    node: Annotated[str, text("The peer.")] | None = None


class PlannedArtifact(Value, frozen=True, kw_only=True):
    """What the node should do about one artifact."""

    digest: Digest
    type: Annotated[EntryType, about("Who does it.")] = EntryType.MODEL
    action: Annotated[Action, about("What to do.")]
    priority: Annotated[int, number("Higher first.", most=2_000_000_000)] = 0
    ready_by: Annotated[Moment, about("The deadline.")] | None = None
    sources: Annotated[list[Source], whole("Best first.", most=8)] | None = None
    grant: Annotated[str, text("What the broker wants to see. Opaque.", max_length=256)] | None = None


class NodeCacheSpec(Value, frozen=True, kw_only=True):
    """Written by the planner."""

    node_uid: Annotated[str, text("Of the Node it is about: a new node of the same name is another.", max_length=64)] = (
        msgspec.field(name="nodeUID")
    )
    plan: Annotated[str, text("Names this version of the plan.", max_length=64)] | None = None
    artifacts: Annotated[list[PlannedArtifact], keyed("Empty: keep, evict nothing.", "digest", most=ENTRIES_MAX)] | None = None


class HeldArtifact(Value, frozen=True, kw_only=True):
    """How one artifact stands on the node."""

    digest: Digest
    type: Annotated[EntryType, about("Who says so.")] = EntryType.MODEL
    state: Annotated[State, about("Where it stands.")]
    step: Annotated[Step, about("While Staging.")] | None = None
    fetched: Annotated[int | str, quantity("Bytes of it that are here, while Staging; as of the last write.")] | None = None
    unpacked: Annotated[int | str, quantity("Of an image: bytes of it that are unpacked too, while Staging.")] | None = None
    wasted: (
        Annotated[int | str, quantity("Of an image whose tag has moved: bytes of it that what was pulled instead has not.")]
        | None
    ) = None
    error_class: Annotated[ErrorClass, about("Of Failed.")] | None = None
    error_code: Annotated[str, text("One word.", max_length=63, pattern=WORD_PATTERN)] | None = None


class ImagesStatus(Value, frozen=True, kw_only=True):
    """Written by the `images` container; absent: there is none, and no image goes to the node. Bytes are compressed ones."""

    runtime: Annotated[str, text("Version of containerd.", max_length=64)]
    snapshotter: Annotated[str, text("Which is staged into.", max_length=63)]
    discards_layers: Annotated[bool, about("discard_unpacked_layers; absent: it does not say.")] | None = None
    remote_snapshotters: (
        Annotated[list[Annotated[str, text("Its name.", max_length=63)]], whole("Of other daemons: left alone.", most=16)] | None
    ) = None
    budget: Annotated[int | str, quantity("Most bytes of images below the mark on containerd's disk.")] | None = None
    used: Annotated[int | str, quantity("Bytes of images that are held.")] | None = None
    wasted: (
        Annotated[int | str, quantity("Of those, for nothing: their tag was another image by the time of its pull.")] | None
    ) = None
    rate_p10: Annotated[int | str, quantity("Bytes a second, unpacked, that nine of ten stages beat.")] | None = msgspec.field(
        name="rateP10", default=None
    )
    heartbeat_at: Annotated[Moment, about("When it last wrote; at most once a minute.")] | None = None


class NodeCacheStatus(Value, frozen=True, kw_only=True):
    """Written by the agent; `images`, and the artifacts of that type, by the `images` container."""

    observed_generation: Generation = None
    observed_plan: Annotated[str, text("The plan that was taken in.", max_length=64)] | None = None
    store_id: Annotated[str, text("Another one: the store was lost.", max_length=64)] | None = msgspec.field(
        name="storeID", default=None
    )
    budget: Annotated[int | str, quantity("Most bytes.")] | None = None
    used: Annotated[int | str, quantity("Bytes at rest.")] | None = None
    reserved: Annotated[int | str, quantity("Bytes promised.")] | None = None
    origin_rate_p10: Annotated[int | str, quantity("Bytes a second that nine of ten stages beat.")] | None = msgspec.field(
        name="originRateP10", default=None
    )
    heartbeat_at: Annotated[Moment, about("When the agent last wrote; at most once a minute.")] | None = None
    artifacts: Annotated[list[HeldArtifact], keyed("What is there.", "digest", most=ENTRIES_MAX)] | None = None
    images: Annotated[ImagesStatus, about("Of containerd, where images are staged.")] | None = None
    conditions: Conditions = None


class NodeCache(Stored, frozen=True, kw_only=True):
    """What one node should hold, and what it holds. Named as its Node, and owned by it."""

    spec: NodeCacheSpec
    status: NodeCacheStatus | None = None


KINDS = (
    Kind(
        NodeCache,
        "nodecaches",
        namespaced=False,
        short_names=("nc",),
        conditions=("Ready", "OriginReachable", "DiskHealthy"),
        columns=(
            Column("Used", ".status.used"),
            Column("Budget", ".status.budget"),
            Column("Plan", ".spec.plan", priority=1),
            Column("Observed", ".status.observedPlan", priority=1),
            Column("Origin-Rate", ".status.originRateP10", priority=1),
            ready_column("DiskHealthy"),
            ready_column(),
            AGE,
        ),
    ),
)
