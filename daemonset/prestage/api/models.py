"""StagedModel: a name for an artifact, its source and its credentials. StagedModelGrant: who else may mount it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec

from prestage.api.marks import AGE, Column, Form, Kind, Rule, about, keyed, number, ready_column, text, unordered
from prestage.api.rules import exactly_with, immutable, not_where_begins, only_with
from prestage.api.values import (
    DIGEST,
    DNS_LABEL,
    DNS_NAME,
    Conditions,
    Digest,
    Generation,
    NameRef,
    NodeCounts,
    Stored,
    Value,
)

SOURCE = Form(
    r"^(hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*|(s3|gs|az|oci)://[^ \t]+|https://[^ \t/]+/[^ \t]+)$",
    "write hf://org/name, s3://bucket/prefix/, gs://bucket/prefix/, az://container/prefix/, oci://registry/repository or "
    "https://host/file; a revision goes into spec.revision; file:// is not served in a cluster",
)
ACCOUNT = Form(r"^(\*|[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)$", "write a service account's name, or * for every one")
ROLE_ARN = Form(r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$", "write a role's ARN, e.g. arn:aws:iam::123456789012:role/models")


class ArtifactType(StrEnum):
    """What is staged."""

    MODEL = "Model"
    ADAPTER = "Adapter"
    COMPILE_CACHE = "CompileCache"


class RevisionPolicy(StrEnum):
    """Fixed: never look again. Notify: say in status what is newer; moving is an edit of `revision`."""

    FIXED = "Fixed"
    NOTIFY = "Notify"


class OnRevoked(StrEnum):
    """What happens when the origin or a grant says no: mounted pods keep what they have in both cases."""

    BLOCK_NEW_MOUNTS = "BlockNewMounts"
    EVICT = "Evict"


class CredentialType(StrEnum):
    """Where the right to read the source comes from."""

    NONE = "None"
    SECRET = "Secret"  # noqa: S105  the word, not one
    SERVICE_ACCOUNT = "ServiceAccount"


class FetchAccount(Value, frozen=True, kw_only=True):
    """A service account of the namespace whose token is exchanged at the origin."""

    name: Annotated[str, text("Its name; prestage-fetcher is the one that `kubectl prestage enable` lets us use.", form=DNS_NAME)]
    role_arn: (
        Annotated[str, text("The AWS role it assumes, narrowed to the source's prefix.", max_length=2048, form=ROLE_ARN)] | None
    ) = msgspec.field(name="roleARN", default=None)


class Credentials(Value, frozen=True, kw_only=True):
    """Read by the broker only, never on a node."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_with("secretRef", "type", "Secret", message="write secretRef with type: Secret, and only with it"),
        exactly_with(
            "serviceAccount", "type", "ServiceAccount", message="write serviceAccount with type: ServiceAccount, and only with it"
        ),
    )

    type: Annotated[CredentialType, about("Which of the fields below counts.")]
    secret_ref: Annotated[NameRef, about("A Secret of this namespace.")] | None = None
    service_account: Annotated[FetchAccount, about("Workload identity.")] | None = None


class Files(Value, frozen=True, kw_only=True):
    """Which of the source's files belong to the artifact: shell patterns on their paths."""

    include: (
        Annotated[list[Annotated[str, text("A pattern.", max_length=256)]], unordered("Only these; all when absent.", most=64)]
        | None
    ) = None
    exclude: (
        Annotated[list[Annotated[str, text("A pattern.", max_length=256)]], unordered("Not these, even if included.", most=64)]
        | None
    ) = None


class StagedModelSpec(Value, frozen=True, kw_only=True):
    """What it is and where it comes from."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        only_with("baseRef", "type", "Adapter", message="baseRef goes with type: Adapter; remove it, or set the type"),
        not_where_begins("revision", "source", "https://", message="an https:// source has no revision: remove spec.revision"),
    )

    type: Annotated[ArtifactType, about("What is staged.")] = ArtifactType.MODEL
    source: Annotated[
        str,
        text(
            "Where it comes from, without revision. Immutable.",
            max_length=1024,
            form=SOURCE,
            rules=(immutable("source is immutable: make another StagedModel, and let this one go when no pod names it"),),
        ),
    ]
    origin_ref: (
        Annotated[NameRef, about("The Origin that says endpoint and region; the default one of its type when absent.")] | None
    ) = None
    revision: Annotated[str, text("Branch, tag, commit or version; resolved once.")] | None = None
    revision_policy: Annotated[RevisionPolicy, about("Whether to look for newer revisions.")] = RevisionPolicy.FIXED
    expected_digest: Annotated[str, text("Resolve to this artifact or fail.", max_length=71, form=DIGEST)] | None = None
    files: Annotated[Files, about("Which files.")] | None = None
    base_ref: Annotated[NameRef, about("The StagedModel that an adapter was made for: refused on another.")] | None = None
    credentials: Annotated[Credentials, about("How to read the source; none when absent.")] | None = None
    on_revoked: Annotated[OnRevoked, about("What happens when access ends.")] = OnRevoked.BLOCK_NEW_MOUNTS


class ResolvedArtifact(Value, frozen=True, kw_only=True):
    """What the source is at the revision."""

    digest: Digest
    revision: Annotated[str, text("The immutable revision.")] | None = None
    files: Annotated[int, number("How many.")]
    size: Annotated[int, number("Bytes of all files.")]


class NewerRevision(Value, frozen=True, kw_only=True):
    """What Notify found."""

    revision: Annotated[str, text("Write it into spec.revision to move.")]


class StagedModelStatus(Value, frozen=True, kw_only=True):
    """Where it stands."""

    observed_generation: Generation = None
    artifact: Annotated[ResolvedArtifact, about("What it is.")] | None = None
    newer: Annotated[NewerRevision, about("With revisionPolicy: Notify.")] | None = None
    nodes: Annotated[NodeCounts, about("Where it is.")] | None = None
    conditions: Conditions = None


class StagedModel(Stored, frozen=True, kw_only=True):
    """A name for an artifact, its source and credentials. Pods of the namespace mount it with `ref:NAME`."""

    spec: StagedModelSpec
    status: StagedModelStatus | None = None


class Grantee(Value, frozen=True, kw_only=True):
    """Who: every field must match."""

    namespace: Annotated[str, text("Of the pods.", max_length=63, form=DNS_LABEL)]
    service_account: Annotated[str, text("Of the pods; * is every one.", form=ACCOUNT)] = "*"


class StagedModelGrantSpec(Value, frozen=True, kw_only=True):
    """From whom, to what: all of `from` may mount all of `to`."""

    from_: Annotated[list[Grantee], keyed("Who.", "namespace", "serviceAccount", most=64, least=1)] = msgspec.field(name="from")
    to: Annotated[list[NameRef], keyed("StagedModels of this namespace.", "name", most=64, least=1)]


class StagedModelGrant(Stored, frozen=True, kw_only=True):
    """The owner's word that others may mount its StagedModels. Removing it blocks new mounts."""

    spec: StagedModelGrantSpec


KINDS = (
    Kind(
        StagedModel,
        "stagedmodels",
        namespaced=True,
        short_names=("sm",),
        conditions=("Ready", "Resolved", "Authorized", "Warm"),
        selectable=(".spec.source",),
        columns=(
            Column("Source", ".spec.source"),
            Column("Size", ".status.artifact.size", "integer", description="Bytes"),
            Column("Warm", ".status.nodes.warm", "integer", description="Nodes that hold it"),
            Column("Wanted", ".status.nodes.wanted", "integer", description="Nodes that should"),
            Column("Revision", ".status.artifact.revision"),
            ready_column(),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
            Column("Digest", ".status.artifact.digest", priority=1),
            AGE,
        ),
    ),
    Kind(
        StagedModelGrant,
        "stagedmodelgrants",
        namespaced=True,
        short_names=("smg",),
        columns=(
            Column("From", ".spec.from[*].namespace"),
            Column("To", ".spec.to[*].name"),
            AGE,
        ),
    ),
)
