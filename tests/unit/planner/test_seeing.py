"""What is kept from look to look is never seen: after any events a planner sees what one that begins now sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from planning.objects import (
    Mirrored,
    artifact,
    deployment,
    digest,
    head,
    line,
    namespace,
    node,
    node_cache,
    pod,
    replica_set,
    template,
)

from prestage.api.nodes import Action
from prestage.control.demand.grouping import Groups
from prestage.control.demand.image_lines import image_question
from prestage.control.demand.once import Once
from prestage.control.demand.records import Line
from prestage.control.planning.seeing import Seeing, Sight
from prestage.kube.mirror import Mirror
from prestage.kube.ports import Happening, Object, WatchEvent, name_of
from prestage.kube.resources import ARTIFACTS, DEPLOYMENTS, NAMESPACES, NODE_CACHES, NODES, PODS, REPLICA_SETS
from prestage.planner.demands import Trust
from prestage.planner.plans import Assignment, NodePlan

NOW = 1_790_000_000.0
NAMES = ("n1", "n2", "n3")
IMAGES = {"runtime": "2.1.9", "snapshotter": "overlayfs", "budget": "1Gi"}
TAINTS = ({"key": "node.kubernetes.io/unschedulable", "value": "", "effect": "NoSchedule"},)
ENGINE = "registry.example/engine:1"
_EVENTS = st.tuples(st.integers(0, 10), st.integers(0, 2), st.integers(0, 3))


def said(number: int) -> Mapping[str, object]:
    """Templates of two kinds: one wants an image too, the other runs in one zone."""
    made = template(ref=f"hf://org/m{number}@main")
    inner = cast("dict[str, Any]", made["spec"])
    inner["containers"][0]["image"] = ENGINE
    return {**made, "spec": {**inner, **({"nodeSelector": {"zone": "a"}} if number % 2 else {})}}


def machine(name: str, *, zone: str, gpus: int = 4, taints: Iterable[object] = ()) -> Object:
    """The last one is of another architecture."""
    labels = {"zone": zone, "kubernetes.io/arch": "arm64" if name == NAMES[-1] else "amd64"}
    made = node(name, gpus=gpus, taints=taints)
    return {**made, "metadata": head(name, None, labels=labels)}


def pod_of(number: int, place: int, *, on: str | None = None, gates: tuple[str, ...] = (), phase: str = "Pending") -> Object:
    owner = ("ReplicaSet", f"web{number}-abc")
    return pod(f"web{number}-{place}", owner=owner, on=on, gates=gates, phase=phase, made=said(number))


class Events:
    """Happen to mirrors, as a watch tells of them."""

    def __init__(self) -> None:
        caches = [node_cache(name, budget="1Ti") for name in NAMES]
        self.mirrors = Mirrored(namespace(), *(machine(name, zone="a") for name in NAMES), *caches)
        self.sent: dict[str, NodePlan] = {}
        self._version = 10

    @classmethod
    def at_work(cls) -> Events:
        """Of each template one pod waits; two are known, and one runs."""
        made = cls()
        for number in range(3):
            made.happen(4, number, 1)
            made.happen(0, number, 0)
        for number in range(2):
            made.happen(6, number, 1)
        made.happen(2, 0, 1)
        made.happen(8, 2, 1)
        made.happen(10, 0, 3)
        return made

    def take(self, mirror: Mirror, made: Object, *, is_gone: bool = False) -> None:
        self._version += 1
        metadata = {**cast("Mapping[str, object]", made["metadata"]), "resourceVersion": str(self._version)}
        mirror.take(WatchEvent(Happening.DELETED if is_gone else Happening.MODIFIED, {**made, "metadata": metadata}))

    def happen(self, kind: int, number: int, place: int) -> None:
        name, on = f"web{number}", NAMES[place % 3]
        pods, gated = self.mirrors[PODS], ("prestage.dev/warm",)
        doing: list[Callable[[], None]] = [
            lambda: self.take(pods, pod_of(number, place, gates=gated)),
            lambda: self.take(pods, pod_of(number, place, on=on)),
            lambda: self.take(pods, pod_of(number, place, on=on, phase="Running")),
            lambda: self.take(pods, pod_of(number, place), is_gone=True),
            lambda: self.take(self.mirrors[REPLICA_SETS], replica_set(f"{name}-abc", name, replicas=place, made=said(number))),
            lambda: self.take(self.mirrors[REPLICA_SETS], replica_set(f"{name}-abc", name), is_gone=place == 0),
            lambda: self.take(
                self.mirrors[ARTIFACTS], artifact(f"m{number}", line(f"{name}-uid", ref=f"hf://org/m{number}@main"), size=place)
            ),
            lambda: self.take(self.mirrors[NODES], machine(on, zone="ab"[number % 2], gpus=place, taints=TAINTS[:number])),
            lambda: self.take(self.mirrors[NODE_CACHES], self.cache(on, number, pulls=place > 0)),
            lambda: self._other(number, place),
            lambda: self.take(self.mirrors[ARTIFACTS], artifact("engine", *map(_image_line, range(place)))),
        ]
        doing[kind]()

    def cache(self, name: str, number: int, *, pulls: bool) -> Object:
        return node_cache(name, f"m{number}", images=IMAGES) if pulls else node_cache(name, f"m{number}")

    def _other(self, number: int, place: int) -> None:
        if place == 0:
            self.take(self.mirrors[NAMESPACES], namespace(enabled=number > 0))
        elif place == 1:
            self.take(
                self.mirrors[DEPLOYMENTS], deployment(f"web{number}", made=said(number), said={"ready-schedule": "0 8 * * *"})
            )
        elif place == 2:
            told = NodePlan(NAMES[number], f"{NAMES[number]}-uid", (Assignment(digest(f"m{number}"), Action.STAGE),))
            self.sent = {told.node: told}
        else:
            self.mirrors[PODS].replace(list(self.mirrors[PODS]))


def _image_line(number: int) -> Line:
    return image_question("team", f"web{number}-uid", "abc", f"oci://{ENGINE}", "amd64", ()).line


def without_objects(seen: Sight) -> tuple[object, ...]:
    """What is planned by, and what is told of it."""
    collected = replace(seen.collected, declarations=(), dues={})
    return (
        collected,
        sorted(seen.nodes, key=lambda one: one.name),
        list(seen.images),
        seen.walls,
        seen.caches,
        seen.parts,
        seen.stopped,
    )


@settings(max_examples=80)
@given(st.lists(st.lists(_EVENTS, min_size=1, max_size=6), min_size=1, max_size=6))
def test_after_any_events_what_was_kept_says_the_same_as_a_fresh_look(turns: list[list[tuple[int, int, int]]]) -> None:
    events, kept = Events.at_work(), Seeing()
    kept.look(events.mirrors, NOW)
    for turn in turns:
        for event in turn:
            events.happen(*event)
        seen = kept.look(events.mirrors, NOW, sent=events.sent)  # of one moment: since when a move goes on is remembered
        assert without_objects(seen) == without_objects(Seeing().look(events.mirrors, NOW, sent=events.sent))


def test_what_an_event_does_not_touch_stays_the_same_object() -> None:
    events, kept = Events(), Seeing()
    for number in (0, 2):
        events.happen(4, number, 1)
        events.happen(6, number, 1)
        events.happen(2, number, 0)
    before = {one.id: one for one in kept.look(events.mirrors, NOW).demands}
    states = {one.name: one for one in kept.look(events.mirrors, NOW).nodes}
    events.happen(2, 0, 1)
    events.happen(8, 0, 0)
    seen = kept.look(events.mirrors, NOW)
    changed = {one.artifact for one in seen.demands if before.get(one.id) is not one}
    assert changed == {digest("m0")}
    assert sum(one.trust is Trust.BOUND for one in seen.demands) == 2
    assert [one.name for one in seen.nodes if states[one.name] is not one] == ["n1"]


def test_a_pod_that_came_before_its_replica_set_is_counted_once_that_is_seen() -> None:
    events, groups = Events(), Groups()
    events.happen(0, 1, 0)
    mirrors = events.mirrors
    assert not groups.look(mirrors[PODS], mirrors[REPLICA_SETS], {"team"})
    events.happen(4, 1, 1)
    [(key, group)] = groups.look(mirrors[PODS], mirrors[REPLICA_SETS], {"team"}).items()
    assert (key[0].uid, group.waiting, group.subject.name) == ("web1-uid", 1, "web1")
    events.happen(3, 1, 0)
    assert not groups.look(mirrors[PODS], mirrors[REPLICA_SETS], {"team"})
    assert not list(groups.facts)


def test_an_object_is_read_once_and_forgotten_when_it_is_gone() -> None:
    asked = list[str]()

    def read(seen: Object) -> str:
        asked.append(name_of(seen))
        return name_of(seen)

    once, one, other = Once(read), node("n1"), node("n2")
    assert [made for _, made in once.look([one, other])] == ["n1", "n2"]
    assert [made for _, made in once.look([other])] == ["n2"]
    assert [made for _, made in once.look([one, other])] == ["n1", "n2"]
    assert asked == ["n1", "n2", "n1"]
