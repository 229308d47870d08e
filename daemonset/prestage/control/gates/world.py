"""What gates, preferences and the Warm condition are decided from: mirrors of pods, nodes, caches, artifacts, owners, the lease.

Whoever has Followers of his own hands their mirrors in and tells `note` of each change; `follow` does it all by itself.
Reading never waits and never asks the API server: admission has 2 s for everything.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from prestage.api.annotations import PREFIX, ModelRequest, StagedModelName
from prestage.api.brokerage import Template
from prestage.control.demand.amounts import requests_of
from prestage.control.demand.feasibility import Needs, Site, site_of, takes_room
from prestage.control.demand.image_lines import ARCHITECTURE, image_line, repository_of
from prestage.control.gates.fits import Fit, Fits
from prestage.control.gates.followed import FOLLOWED
from prestage.control.gates.holdings import Holdings
from prestage.control.gates.images import ARCHITECTURES, NO_IMAGES, PodImages
from prestage.control.gates.prediction import Holding
from prestage.control.gates.records import Records
from prestage.control.gates.touched import Askers, Touched, Use
from prestage.control.gates.waiting import Waited, Waits
from prestage.control.gates.wishes import Wishes
from prestage.control.podspec import annotations_of, is_gated, is_ours, part, volumes_of
from prestage.control.templates import controller_of, template_of
from prestage.kube.following import Follower
from prestage.kube.leases import renewed_ago_s
from prestage.kube.mirror import Appeared, Change, Changed, Key, Mirror, Synced, Vanished, key_of
from prestage.kube.news import News
from prestage.kube.ports import Api, Object, Resource, Selection, metadata_of, name_of, namespace_of
from prestage.kube.resources import ARTIFACTS, DEPLOYMENTS, LEASES, NODE_CACHES, NODES, PODS, REPLICA_SETS

PLANNER_LEASE: Final = "prestage-planner"
_NO_POD: Final[frozenset[Key]] = frozenset()
_PROGRESS_S: Final = 600
"""Kubernetes' default progressDeadlineSeconds."""


@dataclass(frozen=True, slots=True)
class Known:
    """The models of a pod, as far as they are resolved: by alias and ref."""

    artifacts: Mapping[tuple[str, str], str]
    wanted: int

    @property
    def complete(self) -> bool:
        """All of them."""
        return len(self.artifacts) == self.wanted


@dataclass(slots=True)
class World:
    """See the module. `clock`: seconds that only grow; `now`: of the wall."""

    namespace: str
    mirrors: dict[Resource, Mirror] = field(default_factory=lambda: {one: Mirror(keep) for one, keep in FOLLOWED.items()})
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)
    leading: bool = False
    """We hold the lease ourselves: it is not followed."""
    synced: set[Resource] = field(default_factory=set)
    gated: set[Key] = field(default_factory=set)
    asking: set[Key] = field(default_factory=set)
    """Pods that name models."""
    _woken: list[News] = field(default_factory=list)
    _touched: list[Touched] = field(default_factory=list)
    _askers: Askers = field(default_factory=Askers)
    _records: Records = field(default_factory=Records)
    _held: Holdings = field(default_factory=Holdings)
    _taken: dict[str, dict[Key, Mapping[str, int]]] = field(default_factory=dict)
    _sites: dict[str, Site] = field(default_factory=dict)
    _stale: set[str] = field(default_factory=set)
    _fits: Fits = field(default_factory=Fits)
    _renewed_s: float | None = None
    _waits: Waits = field(default_factory=Waits)
    wishes: Wishes = field(default_factory=Wishes)

    def subscription(self) -> News:
        """Set whenever anything changed; the subscriber clears it."""
        woken = News()
        self._woken.append(woken)
        return woken

    def touched(self) -> Touched:
        """Which pods a change concerns, from now on; the subscriber takes them."""
        made = Touched()
        self._touched.append(made)
        return made

    async def follow(self, api: Api) -> None:
        """Keep the mirrors, for ever."""
        async with asyncio.TaskGroup() as group:
            for resource in self._followed:
                keep = FOLLOWED[resource]
                named = Selection(self.namespace, fields=f"metadata.name={PLANNER_LEASE}")
                follower = Follower(api, resource, named if resource is LEASES else Selection(), keep=keep)
                self.mirrors[resource] = follower.mirror
                group.create_task(self._follow(follower, resource))

    async def _follow(self, follower: Follower, resource: Resource) -> None:
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                self.note(resource, change)

    def note(self, resource: Resource, change: Change) -> None:
        """Take a change in: the mirror has it already."""
        concerned: Set[Key] | None = _NO_POD
        if isinstance(change, Synced):
            self.synced.add(resource)
            concerned = None
        elif resource is PODS:
            concerned = self._note_pod(change)
        elif resource is NODES:
            self._stale.add(name_of(change.object))
            concerned = None if _is_other_site(change) else _NO_POD
        elif resource is NODE_CACHES:
            concerned = self._note_cache(change)
        elif resource is ARTIFACTS:
            concerned = self._askers.of(self._records.note(change))
        elif resource is REPLICA_SETS:
            concerned = self._note_replica_set(change)
        elif resource is LEASES:
            self._note_lease(change)
        for touched in self._touched:
            touched.add(concerned)
        for woken in self._woken:
            woken.set()

    @property
    def whole(self) -> bool:
        """Every mirror was filled once."""
        return self.synced.issuperset(self._followed)

    @property
    def _followed(self) -> list[Resource]:
        return [one for one in FOLLOWED if one is not LEASES or not self.leading]

    # what is asked of it

    def pods(self) -> Iterator[Object]:
        return iter(self.mirrors[PODS])

    def nodes(self) -> Iterator[Object]:
        return iter(self.mirrors[NODES])

    def node(self, name: str) -> Object | None:
        return self.mirrors[NODES].get(name)

    def pod(self, key: Key) -> Object | None:
        """By namespace and name."""
        return self.mirrors[PODS].get(key[1], key[0])

    def sites(self) -> Mapping[str, Site]:
        """Nodes as pods meet them."""
        for name in self._stale:
            node = self.node(name)
            if node is None:
                self._sites.pop(name, None)
            else:
                self._sites[name] = site_of(node, self._taken.get(name, {}).values())
            self._fits.changed(name)
        self._stale.clear()
        return self._sites

    def fit(self, needs: Needs) -> Fit:
        """Which nodes could take such a pod, and which can now."""
        return self._fits.of(needs, self.sites())

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes by digest."""
        return self._records.sizes

    def holding(self, node: str) -> Holding | None:
        """None: it has no NodeCache."""
        return self._held.by_node.get(node)

    def holdings(self) -> Mapping[str, Holding]:
        """By node."""
        return self._held.by_node

    def holders(self, digest: str) -> Set[str]:
        """Nodes whose NodeCache says anything of it."""
        return self._held.holders(digest)

    def wanting(self, digests: Iterable[str]) -> set[Key]:
        """Pods whose templates got any of these."""
        return self._askers.of(self._records.uses(digests))

    def lease_age_s(self) -> float | None:
        """Since whoever led last renewed; None: there is no lease.

        By our own clock from the first renewal that we saw (clocks of a cluster differ); before, by the lease's word. A leader
        that let go counts as silent since then: the next one takes over in seconds.
        """
        if self.leading:
            return 0.0
        lease = self.mirrors[LEASES].get(PLANNER_LEASE, self.namespace)
        if lease is None:
            return None
        if self._renewed_s is not None:
            return self.clock() - self._renewed_s
        return renewed_ago_s({**lease, "spec": {"holderIdentity": "anybody", **_held(lease)}}, self.now())

    def template(self, pod: Object) -> Template | None:
        """Of the pod; None: not to be told (yet)."""
        return template_of(pod, lambda namespace, name: self.mirrors[REPLICA_SETS].get(name, namespace))

    def known(self, pod: Object, models: Sequence[ModelRequest]) -> Known:
        """Which artifacts its template got. A record counts in the pod's namespace, or in that of the StagedModel it names."""
        template = self.template(pod)
        found = dict[tuple[str, str], str]()
        for model in models if template is not None else ():
            assert template is not None
            for record in self._records.of((template.uid, template.hash, model.alias, model.text)):
                if record.namespace in _homes(model, namespace_of(pod)):
                    found[(model.alias, model.text)] = record.digest
        return Known(found, len({(one.alias, one.text) for one in models}))

    def images(self, pod: Object) -> PodImages:
        """Images of the pod that somebody may wait for; none where no node stages any."""
        if not self._held.stagers:
            return NO_IMAGES
        refs, namespace = self.wishes.of(pod).images.awaited, namespace_of(pod) or ""
        found = self.recorded_images(pod, refs)
        known = {ref for _, ref, _ in found.rows}
        is_awaited = any(ref not in known and self._records.has_images_of(namespace, repository_of(ref)) for ref in refs)
        return replace(found, is_awaited=True) if is_awaited else found

    def recorded_images(self, pod: Object, refs: Iterable[str]) -> PodImages:
        """Which artifacts its template got for these, for each architecture."""
        template = self.template(pod)
        rows = list[tuple[str, str, str]]()
        for use in _image_uses(template, refs):
            _, architecture, _ = use[2].split("/")
            found = [one.digest for one in self._records.of(use) if one.namespace == namespace_of(pod)]
            rows += [(architecture, use[3], min(found))] if found else []
        return PodImages(tuple(rows)) if rows else NO_IMAGES

    def stages_images(self, node: str = "") -> bool:
        """That node, or any."""
        return node in self._held.stagers if node else bool(self._held.stagers)

    def architecture(self, node: str) -> str:
        """As its kubelet says."""
        site = self.sites().get(node)
        return site.labels.get(ARCHITECTURE, ARCHITECTURES[0]) if site is not None else ARCHITECTURES[0]

    def has_artifact(self, namespace: str, digest: str) -> bool:
        """Whether this namespace resolved it; True while that cannot be told."""
        return ARTIFACTS not in self.synced or self._records.has(namespace, digest)

    def waited(self, pod: Object) -> Waited:
        """Since ours is its only gate, or it has none."""
        return self._waits.of(pod, at_s=self.clock(), age_s=age_s(pod, self.now()))

    def rollout_left_s(self, pod: Object) -> float | None:
        """Until its Deployment's progress deadline; None where there is none."""
        set_ = controller_of(pod)
        if set_ is None or set_.get("kind") != "ReplicaSet":
            return None
        replica_set = self.mirrors[REPLICA_SETS].get(str(set_.get("name")), namespace_of(pod))
        above = controller_of(replica_set) if replica_set is not None else None
        if above is None or above.get("kind") != "Deployment":
            return None
        deployment = self.mirrors[DEPLOYMENTS].get(str(above.get("name")), namespace_of(pod))
        return None if deployment is None else _progress_left_s(deployment, self.now())

    # how it is kept

    def _note_pod(self, change: Appeared | Changed | Vanished) -> Set[Key] | None:
        """Concerns itself; where it leaves room, those that want what is there; where it waited, and goes or asks otherwise, all:
        its turn is another one's."""
        key, seen = key_of(change.object), change.object
        concerned = {key}
        asked = self._askers.uses(key) if key in self.gated else None
        before = change.before if isinstance(change, Changed) else seen if isinstance(change, Vanished) else None
        left = takes_room(before) if before is not None else None
        takes = None if isinstance(change, Vanished) else takes_room(seen)
        if left != takes or before is None or before.get("spec") != seen.get("spec"):
            if left:
                self._taken.get(left, {}).pop(key, None)
                self._stale.add(left)
            if takes:
                self._taken.setdefault(takes, {})[key] = requests_of(part(seen, "spec"))
                self._stale.add(takes)
            if left and left != takes and (holding := self._held.by_node.get(left)) is not None:
                concerned |= self.wanting(holding.states)
        if isinstance(change, Vanished):
            self.wishes.forget(seen)
            self._waits.forget(seen)
            self.gated.discard(key)
            self.asking.discard(key)
            self._askers.drop(key)
            return None if asked else concerned
        for group, belongs in ((self.gated, is_gated(seen)), (self.asking, _asks(seen))):
            (group.add if belongs else group.discard)(key)
        if key in self.asking:
            self._waits.note(seen, at_s=self.clock(), age_s=age_s(seen, self.now()))
            self._ask(seen)
        else:
            self._waits.forget(seen)
            self._askers.drop(key)
        return None if asked and asked != self._askers.uses(key) else concerned

    def _ask(self, pod: Object) -> None:
        template = self.template(pod)
        wish = self.wishes.of(pod)
        if template is None:
            self._askers.wait(key_of(pod), str((controller_of(pod) or {}).get("name", "")))
        else:
            models = [(template.uid, template.hash, one.alias, one.text) for one in wish.models]
            images = _image_uses(template, wish.images.awaited) if self._held.stagers and models else ()
            self._askers.put(key_of(pod), [*models, *images])

    def _note_replica_set(self, change: Appeared | Changed | Vanished) -> Set[Key]:
        """Pods may be seen before the ReplicaSet that says which template they are of."""
        if isinstance(change, Vanished):
            return _NO_POD
        waiting = self._askers.waiting_for(key_of(change.object))
        for pod in filter(None, map(self.pod, waiting)):
            self._ask(pod)
        return waiting

    def _note_cache(self, change: Appeared | Changed | Vanished) -> Set[Key] | None:
        """Concerns all where a node begins or ends to stage images."""
        staged = len(self._held.stagers)
        anew = self._held.note(change, self.clock())
        if len(self._held.stagers) != staged:
            for pod in filter(None, map(self.pod, self.asking if not (staged and self._held.stagers) else ())):
                self._ask(pod)
            return None
        return self.wanting(anew)

    def _note_lease(self, change: Change) -> None:
        if isinstance(change, Changed):
            if part(change.object, "spec").get("holderIdentity"):
                self._renewed_s = self.clock()
        elif not isinstance(change, Synced):
            self._renewed_s = None


def _image_uses(template: Template | None, refs: Iterable[str]) -> list[Use]:
    if template is None:
        return []
    return [image_line(template.uid, template.hash, ref, one) for ref in refs for one in ARCHITECTURES]


def _held(lease: Object) -> dict[str, object]:
    return {key: value for key, value in part(lease, "spec").items() if value}


def _is_other_site(change: Appeared | Changed | Vanished) -> bool:
    """Heartbeats are no news."""
    return not isinstance(change, Changed) or site_of(change.before) != site_of(change.object)


def _asks(pod: Object) -> bool:
    return any(key.startswith(("model." + PREFIX, PREFIX)) for key in annotations_of(pod)) or any(map(is_ours, volumes_of(pod)))


def _homes(model: ModelRequest, namespace: str | None) -> tuple[str | None, ...]:
    if isinstance(model.source, StagedModelName) and model.source.namespace:
        return (model.source.namespace,)
    return (namespace,)


def _progress_left_s(deployment: Object, now: datetime.datetime) -> float | None:
    deadline = part(deployment, "spec").get("progressDeadlineSeconds", _PROGRESS_S)
    conditions = part(deployment, "status").get("conditions")
    progressing = (
        next((one for one in conditions if isinstance(one, Mapping) and one.get("type") == "Progressing"), None)
        if isinstance(conditions, list)
        else None
    )
    begun = (progressing or {}).get("lastUpdateTime") or metadata_of(deployment).get("creationTimestamp")
    if (
        not isinstance(deadline, int)
        or not isinstance(begun, str)
        or (progressing or {}).get("reason") == "NewReplicaSetAvailable"
    ):
        return None  # complete: scaling up has no deadline
    moment = datetime.datetime.fromisoformat(begun)
    return deadline - (now - moment).total_seconds()


def age_s(seen: Object, now: datetime.datetime) -> float:
    """Since it was created; 0 before it is stored."""
    stamp = metadata_of(seen).get("creationTimestamp")
    try:
        return max(0.0, (now - datetime.datetime.fromisoformat(str(stamp))).total_seconds()) if stamp else 0.0
    except ValueError:
        return 0.0
