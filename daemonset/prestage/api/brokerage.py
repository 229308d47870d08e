"""What is asked of the broker, and answered: JSON over TLS, one POST each, a service account's token as bearer.

    caller          path            asks                                            answers
    planner         /v1/resolve     ResolveRequest: make this template's artifact   Resolved
    planner         /v1/records     RecordsRequest: these owners are nowhere        RecordsAnswer
    agent (node)    /v1/manifest    ManifestRequest                                 ManifestAnswer
    agent (node)    /v1/fetches     FetchesRequest: how to get these files          FetchesAnswer
    images (node)   /v1/image       ImageRequest: how to pull this image            ImageAnswer
    csi (node)      /v1/mounts      MountsRequest: may this pod mount these?        MountsAnswer
    anybody         /healthz        GET                                             200

A node's token has the audience `AUDIENCE`, is bound to a pod and carries the claim of the node's name
(authentication.kubernetes.io/node-name, Kubernetes >= 1.32): a node is answered only for artifacts in its own NodeCache, and
for mounts of pods that are bound to it. A pod's token in MountsRequest has the audience `POD_AUDIENCE` and is bound to that pod.
Every refusal is a `Refusal` with the HTTP status of its class (`STATUSES`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from prestage.api.nodes import ErrorClass

AUDIENCE: Final = "prestage-broker"
POD_AUDIENCE: Final = "prestage.dev"
FETCHES_MAX: Final = 256
STATUSES: Final = {
    ErrorClass.MISCONFIGURED: 400,
    ErrorClass.DENIED: 403,
    ErrorClass.NOT_FOUND: 404,
    ErrorClass.BUSY: 409,
    ErrorClass.CORRUPT: 422,
    ErrorClass.BUG: 500,
    ErrorClass.UNAVAILABLE: 503,
    ErrorClass.FULL: 507,
}


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What goes over the wire. Unknown fields pass: the two ends may differ by one version."""


class Template(Message, frozen=True, kw_only=True):
    """A pod template: all pods of one get one revision. See `artifacts.TemplateUse`."""

    uid: str
    """Of the owner: the controlling ReplicaSet's Deployment, the StatefulSet, DaemonSet or Job; of a bare pod, the pod."""
    hash: str
    """pod-template-hash or controller-revision-hash; `-` where there is none."""


class ResolveRequest(Message, frozen=True, kw_only=True):
    """Resolve what a template names, with its namespace's own credentials, and record it. Idempotent: the first record stands."""

    namespace: str
    template: Template
    alias: str
    ref: str
    """As the annotation has it: a ref, `ref:NAME` or `ref:NAMESPACE/NAME`."""
    service_account: str = "default"
    """The pods': a StagedModelGrant may name it."""
    credentials: str | None = None
    """The Secret that `prestage.dev/credentials` names."""
    platform: str | None = None
    """Of an image (`ref` begins with oci://), as linux/amd64: what is resolved is the image of that platform."""
    pull_secrets: tuple[str, ...] = ()
    """Of an image: the pods' imagePullSecrets."""


class Resolved(Message, frozen=True, kw_only=True):
    """What it is."""

    artifact: str
    namespace: str
    """Where its Artifact is kept: the owner's, for a StagedModel of another namespace."""
    revision: str | None = None
    files: int
    size_bytes: int


class RecordsRequest(Message, frozen=True, kw_only=True):
    """Of one Artifact: which owners of its recorded templates are nowhere to be seen. The others are. Idempotent."""

    namespace: str
    artifact: str
    unseen: list[str]
    """UIDs."""


class RecordsAnswer(Message, frozen=True, kw_only=True):
    """What is recorded now."""

    templates: int


class ManifestRequest(Message, frozen=True, kw_only=True):
    """The manifest of an artifact in the node's NodeCache."""

    artifact: str


class ManifestAnswer(Message, frozen=True, kw_only=True):
    """Canonical JSON: its SHA-256 is the artifact's name, and the node checks that."""

    manifest: str
    trust_digests: bool = False
    """Its Origin is marked so: bytes of the stated digests that lie on the node already need not be fetched."""


class FetchesRequest(Message, frozen=True, kw_only=True):
    """How to get files of an artifact, at most `FETCHES_MAX` at once."""

    artifact: str
    paths: list[str]
    mirrors: bool = False
    """From a mirror too: whoever asks turns to the origin where something is wrong with that."""


class Fetch(Message, frozen=True, kw_only=True):
    """A request that gets one file at its pinned version: the node adds `Range`. Secret while it lives."""

    path: str
    url: str
    """Empty where `body` is given."""
    body: bytes | None = None
    """The content itself: a small file that the origin serves only to who shows the secret."""
    headers: dict[str, str] = {}
    expires_at: float | None = None
    """Seconds since the epoch; None: it does not expire."""


class FetchesAnswer(Message, frozen=True, kw_only=True):
    """In the order of the request; it may end early, after the first at least: ask again for the rest.

    `authority`: the origin authority of the bytes, as the store counts reuse by.
    """

    fetches: list[Fetch]
    authority: str
    allowed_cidrs: list[str] | None = None
    """Networks that the URLs may resolve to beside public ones (Origin.spec.allowedCIDRs)."""
    ca: str | None = None
    """PEM of the origin's own CA, where it has one."""
    is_mirror: bool = False
    """They lead to a mirror of that authority: if anything is wrong with them, ask again without `mirrors`."""


class ImageRequest(Message, frozen=True, kw_only=True):
    """How to pull an image in the node's NodeCache."""

    artifact: str
    platform: str
    """The node's, as linux/amd64."""
    mirrors: bool = False
    """From a mirror too: whoever asks turns to the registry where something is wrong with that."""


class ImageAnswer(Message, frozen=True, kw_only=True):
    """What the node asks a registry with. Secret while it lives: never kept, never logged."""

    name: str
    """As in a pod, by the digest of what was resolved: index or manifest."""
    base: str
    """Where its repository answers: https://registry.example/v2/team/app"""
    authority: str
    """Of the bytes, whoever serves them."""
    authorization: str | None = None
    """Header that lets one pull from this repository; None: anybody may."""
    allowed_cidrs: list[str] | None = None
    ca: str | None = None
    is_mirror: bool = False
    """It is a mirror: if anything is wrong with it, ask again without `mirrors`."""


class PodIdentity(Message, frozen=True, kw_only=True):
    """As the kubelet says it."""

    namespace: str
    name: str
    uid: str
    service_account: str


class WantedMount(Message, frozen=True, kw_only=True):
    """One model of the pod's volume."""

    alias: str
    ref: str
    artifact: str | None = None
    """As admission wrote it; None: the one recorded for the pod's template."""


class MountsRequest(Message, frozen=True, kw_only=True):
    """May this pod mount these?"""

    pod: PodIdentity
    pod_token: str
    models: list[WantedMount]


class GrantedMount(Message, frozen=True, kw_only=True):
    """Yes."""

    alias: str
    artifact: str
    rule: str
    """What allowed it, for the log: `namespace team-a resolved it`, `StagedModelGrant team-b/support`."""
    repo: str | None = None
    """The model repository as which .hf/ shows it; None: it did not come from a hub."""
    revision: str | None = None
    """The branch, tag or commit it was asked for by."""


class MountsAnswer(Message, frozen=True, kw_only=True):
    """All of them, or a Refusal. Valid on this node for pods of this namespace and service account until `fresh_until`; where
    the broker cannot be asked, until `valid_until`."""

    models: list[GrantedMount]
    fresh_until: float
    valid_until: float


class Refusal(Message, frozen=True, kw_only=True):
    """Why not. `message` and `hint` are for the namespace's people: never logged or stored by another tenant's object."""

    error_class: ErrorClass
    code: str
    """One CamelCase word: NotResolved, NoGrant, NotInPlan, NoCredentials, OriginRefused …"""
    message: str
    hint: str | None = None
    retry_after_s: float | None = None
