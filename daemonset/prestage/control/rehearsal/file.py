"""A file to a rehearsal. docs/planning.md has the form. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

import msgspec
import yaml

from prestage.api.nodes import EntryType, State
from prestage.api.texts import duration_s, quantity_bytes
from prestage.cacher.errors import Misconfigured
from prestage.control.rehearsal.rehearsal import Rehearsal
from prestage.planner.demands import Demand, ToldBy, Trust
from prestage.planner.nodes import Held, NodeState
from prestage.planner.rules import Rules

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]


class _Form(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class ImagesForm(_Form, frozen=True, kw_only=True):
    """Of a node that stages images: most bytes of them on containerd's file system. `rate`: the node's when absent."""

    budget: int | str
    rate: int | str | None = None
    warm: list[_Name] = []


class NodeForm(_Form, frozen=True, kw_only=True):
    """A node. `rate`: bytes a second that nine of ten stages beat."""

    name: _Name
    budget: int | str
    rate: int | str | None = None
    warm: list[_Name] = []
    is_leaving: bool = False
    images: ImagesForm | None = None


class DemandForm(_Form, frozen=True, kw_only=True):
    """What will be needed: a model or an image. `bound_to`: by pods there, now; else a window. `nodes`: all when absent."""

    model: _Name | None = None
    image: _Name | None = None
    ready_by: str | None = None
    duration: str | None = None
    copies: _Count = 1
    nodes: list[_Name] | None = None
    bound_to: list[_Name] | None = None
    namespace: _Name = "default"
    priority: _Count = 0
    gpus: _Count = 1


class FleetForm(_Form, frozen=True, kw_only=True):
    """The file. `now`: the clock's when absent. `models`, `images`: sizes."""

    models: dict[_Name, int | str] = {}
    images: dict[_Name, int | str] = {}
    nodes: list[NodeForm]
    demand: list[DemandForm]
    now: str | None = None
    origin_bytes_per_second: int | str | None = None


def read_rehearsal(text: str, name: str, clock: float) -> Rehearsal:
    """`name`: for what is wrong with it."""
    try:
        raw = yaml.BaseLoader(text).get_single_data()  # texts only: a moment is read here, with its zone
        if isinstance(raw, Mapping) and isinstance(raw.get("models"), list):
            raise ValueError("this is the file of `prestage node --standalone`: a rehearsal needs sizes and nodes too")
        form = msgspec.convert(raw, FleetForm, strict=False)
        now = clock if form.now is None else _moment(form.now, clock)
        origin = form.origin_bytes_per_second
        return Rehearsal(
            tuple(_demands(form, now)),
            tuple(_nodes(form)),
            now,
            Rules(peers=False, origin_bytes_per_s=None if origin is None else float(quantity_bytes(origin)) or None),
            images=tuple(_image_rooms(form)),
        )
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as exc:
        raise Misconfigured(f"{name}: {exc}", hint="the form is in docs/planning.md, `Rehearsal`") from exc


def _nodes(form: FleetForm) -> Iterator[NodeState]:
    names = [one.name for one in form.nodes]
    if len(set(names)) < len(names):
        raise ValueError("two nodes have one name: give each its own")
    for one in form.nodes:
        _known(one.warm, form.models, "model")
        held = dict.fromkeys(one.warm, Held(State.WARM))
        budget = quantity_bytes(one.budget)
        yield NodeState(one.name, one.name, budget, rate_bytes_per_s=_rate(one.rate), is_leaving=one.is_leaving, held=held)


def _image_rooms(form: FleetForm) -> Iterator[NodeState]:
    for one in form.nodes:
        if (room := one.images) is not None:
            _known(room.warm, form.images, "image")
            held = dict.fromkeys(map(_image, room.warm), Held(State.WARM))
            rate = _rate(one.rate if room.rate is None else room.rate)
            budget = quantity_bytes(room.budget)
            yield NodeState(one.name, one.name, budget, rate_bytes_per_s=rate, is_leaving=one.is_leaving, held=held)


def _rate(said: int | str | None) -> float | None:
    return None if said is None else float(quantity_bytes(said)) or None


def _image(name: str) -> str:
    """A model may have the same name."""
    return f"image {name}"


def _demands(form: FleetForm, now: float) -> Iterator[Demand]:
    for number, one in enumerate(form.demand):
        if (one.model is None) is (one.image is None):
            raise ValueError("a demand names a model or an image: write one of them")
        artifact, size_bytes, every = _wanted(form, one)
        begins = None if one.ready_by is None else _moment(one.ready_by, now)
        lasts = None if one.duration is None else duration_s(one.duration)
        bound = dict.fromkeys(one.bound_to or (), 1)
        yield Demand(
            f"{number} {artifact}",
            artifact,
            size_bytes,
            one.namespace,
            Trust.BOUND if bound else Trust.DECLARED,
            bound,
            frozenset(one.nodes if one.nodes is not None else every) | bound.keys(),
            ready_by=begins,
            until=None if lasts is None else (now if begins is None else begins) + lasts,
            source=ToldBy.POD if bound else ToldBy.STAGING_SCHEDULE,
            copies=None if bound else one.copies,
            gpus=one.gpus,
            priority=one.priority,
            kind=EntryType.MODEL if one.image is None else EntryType.IMAGE,
        )


def _wanted(form: FleetForm, one: DemandForm) -> tuple[str, int, list[str]]:
    """The artifact, its size, and all nodes that may have it."""
    if one.image is None:
        what, name, sizes, every = "model", one.model or "", form.models, [node.name for node in form.nodes]
    else:
        every = [node.name for node in form.nodes if node.images is not None]
        what, name, sizes = "image", one.image, form.images
    _known([name], sizes, what)
    _known([*(one.nodes or ()), *(one.bound_to or ())], every, "node" if one.image is None else "node with images")
    return name if one.image is None else _image(name), quantity_bytes(sizes[name]), every


def _known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    unknown = set(names) - set(known)
    if unknown:
        raise ValueError(f"{what} {min(unknown)!r} is not in the file: add it, or correct the name")


def _moment(text: str, now: float) -> float:
    """`+90m` after now, or a time with a zone."""
    if text.startswith("+"):
        return now + duration_s(text[1:])
    try:
        read = datetime.datetime.fromisoformat(text)
        if read.tzinfo is None:
            raise ValueError
        return read.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is no moment: write +90m, or 2026-11-27T08:00:00Z") from None
