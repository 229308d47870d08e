"""What a type says beyond its Python type: description, limits, formats with a message, CEL rules, list types, columns.

    name: Annotated[str, text("What it is.", max_length=63, form=DNS_LABEL)]

A `Form` is checked twice from one pattern: as a CEL rule by the API server, by `reading.read` in Python. Every text and list
has a limit: without it the API server cannot bound what a CEL rule costs, and refuses the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

MARK: Final = "prestage"
"""Key of our mark in `msgspec.Meta.extra`."""


Fields = Mapping[str, object]
"""A value's fields by their names on the wire, defaults included, absent ones None; of a plain value: itself, as "self"."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold, and what to write instead where it does not: in CEL for the API server, in Python for `reading.read`.

    The functions of rules.py make both from one statement. `holds` None: only the API server can tell (it knows what was before).
    """

    cel: str
    message: str
    holds: Callable[[Fields], bool] | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """How a text must look. `pattern` is anchored, and means the same in RE2 and in Python (no lookaround, no classes)."""

    pattern: str
    message: str

    @property
    def rule(self) -> Rule:
        """The same for the API server. In a CEL raw string a backslash stands for itself."""
        return Rule(f"self.matches(r'{self.pattern}')", self.message)


class ListType(StrEnum):
    """`x-kubernetes-list-type`: how server-side apply merges."""

    MAP = "map"
    SET = "set"
    ATOMIC = "atomic"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the schema says beyond JSON Schema."""

    form: Form | None = None
    rules: tuple[Rule, ...] = ()
    list_type: ListType | None = None
    keys: tuple[str, ...] = ()
    quantity: bool = False
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One of `kubectl get`. `priority` 1: with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


def ready_column(condition: str = "Ready") -> Column:
    """The status of a condition."""
    return Column(condition, f'.status.conditions[?(@.type=="{condition}")].status')


AGE = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True, slots=True)
class Kind:
    """How the API server knows a type: names, scope, what `kubectl get` shows, which conditions it has."""

    type: type[msgspec.Struct]
    plural: str
    namespaced: bool
    columns: tuple[Column, ...]
    conditions: tuple[str, ...] = ()
    short_names: tuple[str, ...] = ()
    selectable: tuple[str, ...] = field(default=())
    """JSON paths that `--field-selector` understands."""

    @property
    def name(self) -> str:
        """`kind` in YAML."""
        return self.type.__name__

    @property
    def singular(self) -> str:
        """As kubectl takes it."""
        return self.name.lower()


def text(
    about: str,
    *,
    max_length: int = 253,
    min_length: int = 1,
    form: Form | None = None,
    pattern: str | None = None,
    rules: tuple[Rule, ...] = (),
    format: str | None = None,  # noqa: A002  OpenAPI's word
) -> msgspec.Meta:
    """Of a string. `pattern` is for what only our own components write: its message is the API server's."""
    mark = {MARK: Mark(form=form, rules=rules, format=format)}
    return msgspec.Meta(min_length=min_length, max_length=max_length, pattern=pattern, description=about, extra=mark)


def number(about: str, *, least: int = 0, most: int = 2**63 - 1) -> msgspec.Meta:
    """Of an integer, ends included."""
    return msgspec.Meta(ge=least, le=most, description=about, extra={MARK: Mark(format="int64")})


def about(description: str, *rules: Rule) -> msgspec.Meta:
    """Of anything else."""
    return msgspec.Meta(description=description, extra={MARK: Mark(rules=rules)})


def quantity(description: str) -> msgspec.Meta:
    """Of a Kubernetes Quantity: 500Gi, 2T, 1024."""
    return msgspec.Meta(description=description, extra={MARK: Mark(quantity=True)})


def keyed(description: str, *keys: str, most: int, least: int | None = None, rules: tuple[Rule, ...] = ()) -> msgspec.Meta:
    """A list that is a map by `keys`: server-side appliers own entries, not the list."""
    return msgspec.Meta(
        description=description,
        max_length=most,
        min_length=least,
        extra={MARK: Mark(list_type=ListType.MAP, keys=keys, rules=rules)},
    )


def unordered(description: str, *, most: int, least: int | None = None) -> msgspec.Meta:
    """A list that is a set."""
    return msgspec.Meta(description=description, max_length=most, min_length=least, extra={MARK: Mark(list_type=ListType.SET)})


def whole(description: str, *, most: int, least: int | None = None) -> msgspec.Meta:
    """A list with an order: replaced as one."""
    return msgspec.Meta(description=description, max_length=most, min_length=least, extra={MARK: Mark(list_type=ListType.ATOMIC)})
