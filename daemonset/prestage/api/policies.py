"""What operators say: CachePolicy (the walls), Origin (where and how), StorePool (one per kind of node)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec

from prestage.api.marks import AGE, Column, Form, Kind, Rule, about, keyed, number, quantity, ready_column, text, unordered, whole
from prestage.api.rules import flag_never_with, flag_only_with, immutable, network, only_with
from prestage.api.values import (
    CRON,
    DNS_LABEL,
    DURATION,
    TIME_ZONE,
    Conditions,
    Generation,
    LabelSelector,
    Moment,
    NameRef,
    Stored,
    Value,
)

ENDPOINT = Form(r"^https?://[^ \t/?#]+(/[^ \t?#]*)?$", "write a URL without query, e.g. https://minio.fra.example")
CIDR = Form(r"^[0-9a-fA-F.:]{2,39}/[0-9]{1,3}$", "write a network as 10.20.0.0/16 or fd00::/8")
PREFIX = Form(r"^(hf|s3|gs|az|oci|https)://[^ \t]*$", "write the beginning of refs, e.g. hf:// or s3://models/")
STORE_ROOT = Form(r"^(/[A-Za-z0-9_][^/ \t]*)+$", "write an absolute path below the root folder, e.g. /mnt/nvme/prestage")


class OriginType(StrEnum):
    """Its protocol, and the scheme of its refs."""

    S3 = "S3"
    HUGGING_FACE = "HuggingFace"
    GCS = "GCS"
    AZURE = "Azure"
    OCI = "OCI"
    HTTPS = "HTTPS"


class AllowedOrigin(Value, frozen=True, kw_only=True):
    """One origin, and what of it."""

    origin_ref: Annotated[NameRef, about("An Origin.")]
    match: Annotated[str, text("Bucket or repository, * for any text.", max_length=512)]


class AllowedOrigins(Value, frozen=True, kw_only=True):
    """A filter: it never grants."""

    allow: Annotated[
        list[AllowedOrigin], whole("Nothing else may be named. One owner: two appliers would widen each other's wall.", most=256)
    ]


class HardLimits(Value, frozen=True, kw_only=True):
    """Shared bytes are charged in full to each namespace."""

    bytes_per_node: Annotated[int | str, quantity("Bytes on any one node.")] | None = None
    bytes: Annotated[int | str, quantity("Bytes on all nodes together.")] | None = None
    pinned: Annotated[int | str, quantity("Bytes held whether used or not.")] | None = None


class CachePolicySpec(Value, frozen=True, kw_only=True):
    """For which namespaces, and how far."""

    namespace_selector: Annotated[LabelSelector, about("The namespaces it holds for; an empty one is every namespace.")]
    origins: Annotated[AllowedOrigins, about("What may be named; everything when absent.")] | None = None
    hard: Annotated[HardLimits, about("How much.")] | None = None
    max_priority: Annotated[int, number("The highest priority of demand.", most=2_000_000_000)] | None = None


class CachePolicyStatus(Value, frozen=True, kw_only=True):
    """Where it stands."""

    observed_generation: Generation = None
    namespaces: Annotated[int, number("How many it holds for.")] | None = None
    conditions: Conditions = None


class CachePolicy(Stored, frozen=True, kw_only=True):
    """The walls around namespaces. Several on one namespace: their intersection."""

    spec: CachePolicySpec
    status: CachePolicyStatus | None = None


class OriginSpec(Value, frozen=True, kw_only=True):
    """Where and how."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        only_with("region", "type", "S3", message="region goes with type: S3"),
        flag_only_with("pathStyle", "type", "S3", message="pathStyle goes with type: S3"),
        flag_never_with("default", "mirrorOf", message="a mirror is never the default: remove default, or mirrorOf"),
        flag_only_with("handPasswords", "type", "OCI", message="handPasswords goes with type: OCI"),
    )

    type: Annotated[OriginType, about("Its protocol.")]
    default: Annotated[bool, about("Refs in annotations use this one of its type.")] = False
    endpoint: Annotated[str, text("The service's own when absent.", max_length=1024, form=ENDPOINT)] | None = None
    region: Annotated[str, text("Of S3.", max_length=64)] | None = None
    path_style: Annotated[bool, about("Buckets in the path instead of the host name.")] = False
    ca_bundle_ref: Annotated[NameRef, about("A ConfigMap of our namespace, key ca.crt.")] | None = None
    proxy: Annotated[str, text("An HTTP proxy.", max_length=1024, form=ENDPOINT)] | None = None
    allowed_cidrs: (
        Annotated[
            list[Annotated[str, text("A network.", max_length=43, form=CIDR, rules=(network(CIDR.message),))]],
            unordered("Networks it may resolve to; public ones only when absent.", most=32),
        ]
        | None
    ) = msgspec.field(name="allowedCIDRs", default=None)
    trust_digests: Annotated[bool, about("Digests it states are believed: bytes are shared without fetching them again.")] = False
    mirror_of: Annotated[NameRef, about("The Origin whose refs and grants it serves.")] | None = None
    hand_passwords: Annotated[
        bool,
        about(
            "Of registries without tokens: nodes that are to stage an image are handed its password. False: such images are not."
        ),
    ] = False


class OriginStatus(Value, frozen=True, kw_only=True):
    """Whether it answers the broker."""

    observed_generation: Generation = None
    checked_at: Annotated[Moment, about("When it was asked, to the hour: later where nothing else is new.")] | None = None
    conditions: Conditions = None


class Origin(Stored, frozen=True, kw_only=True):
    """An endpoint that artifacts come from."""

    spec: OriginSpec
    status: OriginStatus | None = None


class Mirror(Value, frozen=True, kw_only=True):
    """Refs that begin so are fetched there first."""

    prefix: Annotated[str, text("How refs begin.", max_length=512, form=PREFIX)]
    origin_ref: Annotated[NameRef, about("The mirror.")]


STARTUP_TAINT = "prestage.dev/starting"
"""Key of the taint that a new node may come with: its agent takes it off."""


class StartupTaint(Value, frozen=True, kw_only=True):
    """Keeps pods off a new node until what is planned for it is there, never longer."""

    max_seconds: Annotated[int, number("After the Node was made; removed then at the latest.", least=1, most=3600)]


class RateWindow(Value, frozen=True, kw_only=True):
    """Other limits at times."""

    name: Annotated[str, text("Names it.", max_length=63, form=DNS_LABEL)]
    schedule: Annotated[str, text("Cron: when it begins.", max_length=340, form=CRON)]
    time_zone: Annotated[str, text("Of schedule; UTC when absent.", max_length=64, form=TIME_ZONE)] | None = None
    duration: Annotated[str, text("How long it lasts.", max_length=32, form=DURATION)]
    origin_bytes_per_second: Annotated[int | str, quantity("From origins, a node.")]


class StorePoolSpec(Value, frozen=True, kw_only=True):
    """Which nodes, and what their stores may do."""

    node_selector: Annotated[LabelSelector, about("The nodes.")]
    root: Annotated[
        str,
        text(
            "The store. Immutable: a new root is a new pool.",
            max_length=1024,
            form=STORE_ROOT,
            rules=(immutable("root is immutable: make another StorePool, so that warm bytes are not lost unseen"),),
        ),
    ]
    require_mountpoint: Annotated[bool, about("Refuse to fill the root disk when the SSD is not mounted.")] = True
    budget: Annotated[int | str, quantity("Most bytes; what the disk has, less the reserve, when absent.")] | None = None
    reserve_free_percent: Annotated[int, number("Left free on the disk.", most=90)] | None = None
    origin_bytes_per_second: Annotated[int | str, quantity("From origins, a node.")] | None = None
    mirrors: Annotated[list[Mirror], keyed("Nearer copies.", "prefix", most=32)] | None = None
    startup_taint: Annotated[StartupTaint, about("For nodes that come with the taint prestage.dev/starting.")] | None = None
    windows: Annotated[list[RateWindow], keyed("Other limits at times.", "name", most=32)] | None = None


class StorePoolStatus(Value, frozen=True, kw_only=True):
    """Where it stands."""

    observed_generation: Generation = None
    nodes: Annotated[int, number("How many it selects.")] | None = None
    conditions: Conditions = None


class StorePool(Stored, frozen=True, kw_only=True):
    """One per kind of node: where the store is, how large, how fast."""

    spec: StorePoolSpec
    status: StorePoolStatus | None = None


KINDS = (
    Kind(
        CachePolicy,
        "cachepolicies",
        namespaced=False,
        short_names=("cpol",),
        conditions=("Ready",),
        columns=(
            Column("Per-Node", ".spec.hard.bytesPerNode"),
            Column("Bytes", ".spec.hard.bytes"),
            Column("Max-Priority", ".spec.maxPriority", "integer"),
            Column("Namespaces", ".status.namespaces", "integer"),
            ready_column(),
            AGE,
        ),
    ),
    Kind(
        Origin,
        "origins",
        namespaced=False,
        conditions=("Ready",),
        columns=(
            Column("Type", ".spec.type"),
            Column("Endpoint", ".spec.endpoint"),
            Column("Default", ".spec.default", "boolean"),
            Column("Mirror-Of", ".spec.mirrorOf.name", priority=1),
            ready_column(),
            AGE,
        ),
    ),
    Kind(
        StorePool,
        "storepools",
        namespaced=False,
        short_names=("spool",),
        conditions=("Ready",),
        columns=(
            Column("Root", ".spec.root"),
            Column("Budget", ".spec.budget"),
            Column("Rate", ".spec.originBytesPerSecond", priority=1),
            Column("Nodes", ".status.nodes", "integer"),
            ready_column(),
            AGE,
        ),
    ),
)
