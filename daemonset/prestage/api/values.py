"""Values that several kinds share: references, selectors, conditions, and how texts must look."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec

from prestage.api.marks import Form, Rule, about, keyed, number, text, whole
from prestage.api.rules import exactly_with

GROUP = "prestage.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

DNS_LABEL = Form(
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", "write a name of lower-case letters, digits and '-', at most 63, e.g. weights"
)
DNS_NAME = Form(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", "write a name of lower-case letters, digits, '-' and '.', e.g. llama")
DURATION = Form(r"^([0-9]{1,6}(ms|s|m|h)){1,4}$", "write a duration as 10h, 1h30m or 150s")
CRON_FIELD = r"[0-9A-Za-z*/,?-]{1,64}"
CRON = Form(
    rf"^{CRON_FIELD}( {CRON_FIELD}){{4}}$",
    'write five cron fields (minute hour day month weekday), e.g. "0 8 * * 1-5"; the zone goes into timeZone',
)
TIME_ZONE = Form(
    r"^[A-Z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,31}){0,2}$", "write a zone of the IANA table, e.g. Europe/Berlin or UTC"
)
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
DIGEST = Form(DIGEST_PATTERN, "write an artifact's digest: sha256: and 64 lower-case hex digits")
WORD_PATTERN = r"^[A-Z][A-Za-z0-9]{0,62}$"

Digest = Annotated[str, text("The artifact: SHA-256 of its manifest.", min_length=71, max_length=71, pattern=DIGEST_PATTERN)]
LabelValue = Annotated[str, text("A value.", max_length=63, min_length=0)]
Moment = Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of an object. `RULES` hold for it as a whole; `ATOMIC`: one owner for all of it (and may stand in a set)."""

    RULES: ClassVar[tuple[Rule, ...]] = ()
    ATOMIC: ClassVar[bool] = False


class NameRef(Value, frozen=True, kw_only=True):
    """An object by name: in the same namespace, or of the cluster."""

    ATOMIC: ClassVar[bool] = True

    name: Annotated[str, text("Its name.", form=DNS_NAME)]


class SelectorOperator(StrEnum):
    """As Kubernetes has them."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class SelectorTerm(Value, frozen=True, kw_only=True):
    """A requirement on one label."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_with("values", "operator", "In", "NotIn", message="In and NotIn need values, Exists and DoesNotExist have none"),
    )

    key: Annotated[str, text("The label.", max_length=317)]
    operator: Annotated[SelectorOperator, about("How it is compared.")]
    values: Annotated[list[LabelValue], whole("Of In and NotIn.", most=64, least=1)] | None = None


class LabelSelector(Value, frozen=True, kw_only=True):
    """Kubernetes' own: all terms must hold; an empty one selects everything."""

    ATOMIC: ClassVar[bool] = True

    match_labels: (
        Annotated[
            dict[str, LabelValue],
            msgspec.Meta(max_length=64, description="Labels that must be there."),
        ]
        | None
    ) = None
    match_expressions: Annotated[list[SelectorTerm], whole("More than equality.", most=16)] | None = None


class ConditionStatus(StrEnum):
    """Unknown: nobody could tell."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Value, frozen=True, kw_only=True):
    """Kubernetes' own."""

    type: Annotated[str, text("Which.", max_length=316)]
    status: Annotated[ConditionStatus, about("Whether it holds.")]
    reason: Annotated[
        str, text("Why, in one word for programs.", max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ]
    message: Annotated[str, text("Why, for people, with the next step.", max_length=32768, min_length=0)] = ""
    last_transition_time: Annotated[Moment, about("When `status` changed last.")]
    observed_generation: Annotated[int, number("The generation this is about.")] | None = None


Conditions = Annotated[list[Condition], keyed("What holds now; `Ready` sums up.", "type", most=16)] | None
Generation = Annotated[int, number("The generation that the rest of the status is about.")] | None


class NodeCounts(Value, frozen=True, kw_only=True):
    """On how many nodes."""

    warm: Annotated[int, number("Whole and verified.")] = 0
    staging: Annotated[int, number("On their way.")] = 0
    wanted: Annotated[int, number("Asked for by demand.")] = 0


class OwnerReference(Value, frozen=True, kw_only=True):
    """Kubernetes' own."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class Metadata(Value, frozen=True, kw_only=True):
    """The part of ObjectMeta that we read or write."""

    name: str = ""
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    creation_timestamp: Moment | None = None
    deletion_timestamp: Moment | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None


class Stored(Value, frozen=True, kw_only=True, tag_field="kind", tag=str):
    """An object of the API. `kind` is its class; `apiVersion` is added when it is written (`reading.written`)."""

    metadata: Metadata
