"""/v1/mounts: may this pod mount these?

    who         the pod's own token, bound to it, and to the node that asks
    what        the artifact that stands in the volume's attributes, else the one recorded for the pod's template
    by what     its namespace had that very ref resolved to it; a StagedModel of its own; a StagedModelGrant that still stands

Knowing a digest grants nothing, and what the origin refuses the owner by now is not mounted anew (rechecking.py). Every mount is
logged with its rule.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from prestage.api.artifacts import SourceAccess
from prestage.api.brokerage import GrantedMount, MountsAnswer, MountsRequest, PodIdentity, Template, WantedMount
from prestage.api.models import ArtifactType
from prestage.api.nodes import ErrorClass
from prestage.api.values import DIGEST_PATTERN
from prestage.cacher.errors import Misconfigured
from prestage.cacher.refs import HfRef, NamedRef, parse_ref
from prestage.control.broker.identity import Node, Pod, Reviewer, pod_of
from prestage.control.broker.refusals import No, denied, misconfigured
from prestage.control.broker.resolving import check_grant
from prestage.control.broker.shelf import Kept
from prestage.control.broker.sources import Wish, named_by, of_model, read_wish
from prestage.control.broker.view import View
from prestage.control.templates import controller_of, template_of
from prestage.kube.errors import Missing
from prestage.kube.ports import Api, Object, uid_of
from prestage.kube.resources import PODS, REPLICA_SETS

FRESH_S: Final = 30.0
VALID_S: Final = 86_400.0
MODELS_MAX: Final = 32
_LOGGER = logging.getLogger("prestage")


class Granter:
    """See the module."""

    def __init__(
        self,
        api: Api,
        view: View,
        reviewer: Reviewer,
        *,
        clock: Callable[[], float] = time.time,
        hurry: Callable[[Kept, SourceAccess], None] = lambda _held, _row: None,
    ) -> None:
        self._api, self._view, self._reviewer, self._clock, self._hurry = api, view, reviewer, clock, hurry

    async def mounts(self, node: Node, request: MountsRequest) -> MountsAnswer:
        """All of them, or none.

        Raises:
            No: of class Busy where it is not resolved yet.
        """
        if not 0 < len(request.models) <= MODELS_MAX:
            raise misconfigured("TooManyModels", f"{len(request.models)} models: a pod has 1 to {MODELS_MAX}")
        pod = pod_of(await self._reviewer.pods(request.pod_token))
        who = request.pod
        if (pod.namespace, pod.name, pod.uid, pod.service_account) != (who.namespace, who.name, who.uid, who.service_account):
            raise denied("AnotherPod", f"the token is not that of pod {who.namespace}/{who.name}")
        await self._view.check_enabled(who.namespace)
        seen = _Once(self._api, who)
        await self._check_node(pod, node, seen)
        granted = [await self._granted(one, who, seen) for one in request.models]
        self._check_bases([read_wish(one.alias, one.ref, who.namespace) for one in request.models], granted)
        for one in granted:
            self._log(one, who, node)
        now = self._clock()
        return MountsAnswer(models=granted, fresh_until=now + FRESH_S, valid_until=now + VALID_S)

    async def _check_node(self, pod: Pod, node: Node, seen: _Once) -> None:
        """A node speaks for its own pods only."""
        place = pod.node
        if place is None:
            spec = (await seen.pod()).get("spec")
            place = spec.get("nodeName") if isinstance(spec, dict) else None
        if place != node.name:
            raise denied("AnotherNode", f"pod {pod.namespace}/{pod.name} is not on node {node.name}")

    async def _granted(self, wanted: WantedMount, who: PodIdentity, seen: _Once) -> GrantedMount:
        wish = read_wish(wanted.alias, wanted.ref, who.namespace)
        rule = f"namespace {who.namespace} resolved it"
        if wish.is_foreign(who.namespace):
            rule = f"StagedModelGrant {check_grant(self._view, wish, who.namespace, who.service_account)}"
            await self._view.check_enabled(wish.owner)
        elif wish.model is not None:
            rule = f"StagedModel {wish.owner}/{wish.model}"
        found = await self._recorded(wanted, wish, who, seen) if wanted.artifact is None else await self._named(wanted, wish, who)
        self._check_access(found, wish, who)
        repo, revision = self._shown(wish, found)
        return GrantedMount(alias=wanted.alias, artifact=found.digest, rule=rule, repo=repo, revision=revision)

    async def _named(self, wanted: WantedMount, wish: Wish, who: PodIdentity) -> Kept:
        """What admission wrote, or somebody by hand."""
        assert wanted.artifact is not None
        if re.fullmatch(DIGEST_PATTERN, wanted.artifact):
            found = await self._view.artifact(wish.owner, wanted.artifact, wish.text)
            if found is not None:
                return found
        message = f"{wanted.artifact[:80]} is not what {wish.text} was resolved to for namespace {who.namespace}"
        raise denied("NoGrant", message, "leave artifact.prestage.dev/… to admission: knowing a digest grants nothing")

    def _check_bases(self, wishes: Sequence[Wish], granted: Sequence[GrantedMount]) -> None:
        """An adapter beside models that are all not the one it was made for is a mistake. Beside none it is the pod's matter."""
        models = [self._view.model(one.owner, one.model) if one.model is not None else None for one in wishes]
        bases = {
            one.artifact
            for model, one in zip(models, granted, strict=True)
            if model is None or model.spec.type is ArtifactType.MODEL
        }
        for model, wish in zip(models, wishes, strict=True):
            if model is None or model.spec.base_ref is None or not bases:
                continue
            name = model.spec.base_ref.name
            base = self._view.model(wish.owner, name)
            known = self._view.shelf.content(base) if base is not None else None
            if known is None or known.digest not in bases:
                message = f"{wish.text} was made for StagedModel {wish.owner}/{name}, and the pod has other models only"
                raise misconfigured("OtherBase", message, f"mount ref:{name} beside it, or another adapter")

    def _check_access(self, found: Kept, wish: Wish, who: PodIdentity) -> None:
        """Not where the origin refuses the owner by now."""
        row = found.revoked(named_by(wish))
        if row is None:
            return
        self._hurry(found, row)
        since = f"{row.refused_since:%Y-%m-%dT%H:%M:%SZ}" if row.refused_since is not None else "some time"
        if wish.is_foreign(who.namespace):
            message = f"namespace {wish.owner} may not read {wish.text} itself any more, since {since}"
            raise denied("AccessRevoked", message, f"ask the people of {wish.owner}")
        message = f"namespace {who.namespace} may not read {wish.text} any more, since {since}: {row.message}"
        raise denied("AccessRevoked", message, "repair the credentials: they are tried again within minutes")

    async def _recorded(self, wanted: WantedMount, wish: Wish, who: PodIdentity, seen: _Once) -> Kept:
        template = await seen.template()
        if template is not None:
            found = self._view.shelf.recorded(wish.owner, template.uid, template.hash, wanted.alias, wish.text)
            if found is not None:
                return found
        message = f"{wish.text} is not resolved yet for pod {who.namespace}/{who.name}"
        raise No(ErrorClass.BUSY, "NotResolved", message, hint="kubectl describe the pod: its Events say why", retry_after_s=1.0)

    def _shown(self, wish: Wish, found: Kept) -> tuple[str | None, str | None]:
        """The repository and revision that .hf/ shows."""
        ref: NamedRef | None = wish.plain
        if wish.model is not None:
            model = self._view.model(wish.owner, wish.model)
            ref = of_model(model).ref if model is not None else _read(found.ref)
        return (ref.repo, ref.revision) if isinstance(ref, HfRef) else (None, None)

    def _log(self, one: GrantedMount, who: PodIdentity, node: Node) -> None:
        fields = {
            "namespace": who.namespace,
            "service_account": who.service_account,
            "pod": who.name,
            "pod_uid": who.uid,
            "node": node.name,
            "alias": one.alias,
            "artifact": one.artifact,
            "revision": one.revision,
            "rule": one.rule,
        }
        _LOGGER.info("mount-granted", extra={"fields": fields})


@dataclass(slots=True)
class _Once:
    """The pod and its ReplicaSet, asked for when they are needed, once for a request."""

    api: Api
    who: PodIdentity
    _pod: Object | None = None
    _template: Template | None = None

    async def pod(self) -> Object:
        """Raises No where it is gone, or another by now."""
        if self._pod is None:
            try:
                found = await self.api.get(PODS, self.who.name, namespace=self.who.namespace)
            except Missing as exc:
                raise denied("NoSuchPod", f"pod {self.who.namespace}/{self.who.name} is gone") from exc
            if uid_of(found) != self.who.uid:
                raise denied("NoSuchPod", f"pod {self.who.namespace}/{self.who.name} is another by now")
            self._pod = found
        return self._pod

    async def template(self) -> Template | None:
        """None: it cannot be told yet."""
        if self._template is None:
            pod = await self.pod()
            owner = controller_of(pod)
            found: Object | None = None
            if owner is not None and owner.get("kind") == "ReplicaSet":
                try:
                    found = await self.api.get(REPLICA_SETS, str(owner.get("name", "")), namespace=self.who.namespace)
                except Missing:
                    found = None
            self._template = template_of(pod, lambda _namespace, _name: found)
        return self._template


def _read(text: str | None) -> NamedRef | None:
    try:
        return parse_ref(text) if text else None
    except Misconfigured:
        return None
