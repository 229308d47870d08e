"""From what a user wrote to what is resolved: the ref, its files, the namespace whose word it is, its credentials. Pure.

    annotation    hf://org/name@main                the pod's namespace, Secret by prestage.dev/credentials, default Origin
    annotation    ref:NAME, ref:NAMESPACE/NAME      the owner's StagedModel: its source, revision, files, credentials, Origin

What a template gets stands in records of the key (uid, hash, alias, ref). A StagedModel is resolved once for its content, so
that all who name it get the same, and an edit that changes nothing of it (credentials) moves nobody.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from prestage.api.annotations import MODEL_PREFIX, Mistakes, StagedModelName, parse
from prestage.api.models import Credentials, CredentialType, StagedModel
from prestage.api.values import NameRef
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Misconfigured
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import HfRef, HttpRef, NamedRef, S3Ref, parse_ref, text_of
from prestage.control.broker.refusals import misconfigured

ALL: Final = Selection()
SOURCE_MAX: Final = 2400
"""Characters of `SourceAccess.source`."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A ref as an annotation has it, read: a plain one, or a StagedModel by name and owner."""

    text: str
    plain: NamedRef | None
    model: str | None
    owner: str
    """The namespace whose word and credentials count, and where its Artifact is kept."""

    def is_foreign(self, namespace: str) -> bool:
        """It needs a grant."""
        return self.owner != namespace


@dataclass(frozen=True, slots=True)
class Source:
    """What is resolved. Hashable: credentials are kept by it."""

    ref: NamedRef
    owner: str
    selection: Selection = ALL
    origin: str | None = None
    """The Origin's name; None: the default one of its type."""
    credentials: Credentials | None = None
    expected: ArtifactId | None = None


class Trace(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an artifact came from, kept with it: how it is fetched again. No secret, only names."""

    ref: str | None = None
    """Of an image: `oci://` with the digest of what was resolved."""
    secret: str | None = None
    model: str | None = None
    pull_secrets: tuple[str, ...] = ()
    """Of an image."""


def named_as(trace: Trace) -> str:
    """As `Artifact.status.access` has it: `ref:NAME`, a ref, or `REF by SECRET`."""
    if trace.model is not None:
        return f"ref:{trace.model}"
    secrets = ",".join(filter(None, (trace.secret, *trace.pull_secrets)))
    return f"{trace.ref} by {secrets}"[:SOURCE_MAX] if secrets else trace.ref or ""


def named_by(wish: Wish) -> str:
    """The same of what a pod asks for, by whatever Secret it was resolved."""
    return f"ref:{wish.model}" if wish.plain is None else shown_ref(wish.plain)


def read_wish(alias: str, text: str, namespace: str) -> Wish:
    """Read what the annotation of `alias` says in `namespace`.

    Raises:
        No: it is no ref.
    """
    try:
        [request] = parse({f"{MODEL_PREFIX}{alias}": text}).models
    except Mistakes as exc:
        raise misconfigured("NoRef", str(exc)) from exc
    if isinstance(request.source, StagedModelName):
        return Wish(text, None, request.source.name, request.source.namespace or namespace)
    return Wish(text, request.source, None, namespace)


def of_ref(ref: NamedRef, namespace: str, secret: str | None) -> Source:
    """Of an annotation."""
    credentials = Credentials(type=CredentialType.SECRET, secret_ref=NameRef(name=secret)) if secret else None
    return Source(ref, namespace, credentials=credentials, expected=ref.pin)


def of_model(model: StagedModel) -> Source:
    """Of a StagedModel.

    Raises:
        No: its source cannot be served, or not at that revision.
    """
    spec = model.spec
    try:
        ref = parse_ref(spec.source)
    except Misconfigured as exc:
        raise misconfigured("NoRef", f"StagedModel {model.metadata.name}: {exc.message}", exc.hint) from exc
    if spec.revision:
        ref = _at(ref, spec.revision, model.metadata.name)
    files = spec.files
    selection = Selection(tuple(files.include or ()), tuple(files.exclude or ())) if files else ALL
    expected = ArtifactId(spec.expected_digest) if spec.expected_digest else ref.pin
    origin = spec.origin_ref.name if spec.origin_ref else None
    return Source(ref, model.metadata.namespace or "", selection, origin, spec.credentials, expected)


def _at(ref: NamedRef, revision: str, name: str) -> NamedRef:
    if isinstance(ref, HfRef):
        try:
            return replace(parse_ref(f"hf://{ref.repo}@{revision}"), pin=ref.pin)
        except Misconfigured as exc:
            raise misconfigured("NoRevision", f"StagedModel {name}: {exc.message}", exc.hint) from exc
    if isinstance(ref, S3Ref) and not ref.is_prefix:
        return replace(ref, version_id=revision)
    kind = "a prefix" if isinstance(ref, S3Ref) else "an https:// source" if isinstance(ref, HttpRef) else "this source"
    raise misconfigured("NoRevision", f"StagedModel {name}: {kind} has no revision", "remove spec.revision")


def content_of(model: StagedModel) -> str:
    """Names what a StagedModel says is to be had; 16 hex digits. Credentials are no part of it."""
    source = of_model(model)
    said = (text_of(source.ref), source.origin, source.selection.include, source.selection.exclude, source.expected)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def shown_ref(ref: NamedRef) -> str:
    """What the Artifact says it came from."""
    return text_of(replace(ref, pin=None), with_query=False)
