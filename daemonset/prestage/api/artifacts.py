"""Artifact: a manifest kept in the namespace that resolved it, so that rollback and new nodes need no origin."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from prestage.api.marks import AGE, Column, Kind, Rule, about, keyed, number, text
from prestage.api.rules import immutable
from prestage.api.values import DIGEST_PATTERN, WORD_PATTERN, Conditions, Generation, Moment, Stored, Value

_MEBIBYTE_IN_BASE64 = 4 * 2**20 // 3
"""etcd takes 1.5 MiB an object: 1 MiB of compressed manifest is some 20,000 files.

No `format: byte`: the API server checks it as standard base64 and, for a rule of the spec, reads it as the URL-safe kind. With a
`+` or `/` in it an object can then be created and never again written."""


class Encoding(StrEnum):
    """Of `manifest` and `binding`."""

    GZIP = "Gzip"


class ArtifactSpec(Value, frozen=True, kw_only=True):
    """The manifest. Immutable."""

    RULES: ClassVar[tuple[Rule, ...]] = (immutable("an Artifact never changes: make another one", "digest", "manifest"),)

    digest: Annotated[str, text("SHA-256 of the canonical manifest.", min_length=71, max_length=71, pattern=DIGEST_PATTERN)]
    ref: Annotated[str, text("What was resolved to it first.", max_length=2048)] | None = None
    files: Annotated[int, number("How many.")]
    size: Annotated[int, number("Bytes of all files.")]
    encoding: Annotated[Encoding, about("How manifest and binding are packed.")] = Encoding.GZIP
    manifest: Annotated[bytes, text("Canonical JSON, packed, in base64.", max_length=_MEBIBYTE_IN_BASE64)]


class TemplateUse(Value, frozen=True, kw_only=True):
    """A pod template that got it: written before the first pod of it is admitted or published, kept while the owner lives."""

    uid: Annotated[str, text("UID of the owner: workload, Job or bare pod.", max_length=64)]
    hash: Annotated[str, text("pod-template-hash or controller-revision-hash; '-' where there is none.", max_length=63)]
    alias: Annotated[str, text("The name in the pod.", max_length=63)]
    ref: Annotated[str, text("What the template says.", max_length=2048)]
    unseen_since: Annotated[Moment, about("Since when its owner is nowhere to be seen; dropped after a while.")] | None = None


class AccessState(StrEnum):
    """Verified: the origin let the namespace read it. Doubted: it said no, and is asked once more. Revoked: it said no again."""

    VERIFIED = "Verified"
    DOUBTED = "Doubted"
    REVOKED = "Revoked"


class SourceAccess(Value, frozen=True, kw_only=True):
    """Whether the namespace may still read it there, by its own credentials. Looked at daily."""

    source: Annotated[str, text("How it was named: ref:NAME of a StagedModel, or a ref, with `by SECRET`.", max_length=2400)]
    state: Annotated[AccessState, about("What holds. Revoked blocks new mounts by this name.")]
    verified_at: Annotated[Moment, about("When the origin let it be read last.")] | None = None
    checked_at: Annotated[Moment, about("When it was asked last.")]
    refused_since: Annotated[Moment, about("When it began to say no.")] | None = None
    reason: Annotated[str, text("Why it is not verified anew, in one word.", max_length=63, pattern=WORD_PATTERN)] | None = None
    message: Annotated[str, text("The same for the namespace's people.", max_length=1024, min_length=0)] | None = None


class ArtifactStatus(Value, frozen=True, kw_only=True):
    """The binding, who uses it, and whether its namespace still may."""

    observed_generation: Generation = None
    binding: (
        Annotated[
            bytes,
            text("Which blob each file turned out to be; the first writer wins.", max_length=_MEBIBYTE_IN_BASE64),
        ]
        | None
    ) = None
    templates: Annotated[list[TemplateUse], keyed("Pod templates bound to it.", "uid", "hash", "alias", most=1024)] | None = None
    access: Annotated[list[SourceAccess], keyed("Whether the namespace may still read it.", "source", most=32)] | None = None
    conditions: Conditions = None


class Artifact(Stored, frozen=True, kw_only=True):
    """Made by the control plane; immutable. Its name is `sha256-<hex>`."""

    spec: ArtifactSpec
    status: ArtifactStatus | None = None


KINDS = (
    Kind(
        Artifact,
        "artifacts",
        namespaced=True,
        short_names=("art",),
        columns=(
            Column("Ref", ".spec.ref"),
            Column("Files", ".spec.files", "integer"),
            Column("Size", ".spec.size", "integer", description="Bytes"),
            Column("Aliases", ".status.templates[*].alias", priority=1),
            AGE,
        ),
    ),
)
