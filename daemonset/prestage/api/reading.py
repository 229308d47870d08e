"""From the API server's JSON to types and back. Pure.

Reading is lenient where the next version may say more (unknown fields pass), strict in what we know: types, limits, forms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import msgspec
from msgspec import inspect

from prestage.api.marks import ListType, Mark
from prestage.api.schemas import bare, fields_of, marked
from prestage.api.texts import quantity_bytes
from prestage.api.values import API_VERSION, Stored, Value

Kind = TypeVar("Kind", bound=Stored)
Part = TypeVar("Part", bound=Value)


class Invalid(ValueError):
    """It is not what the API says: the path of the field, and what to write instead."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


def read(kind: type[Kind], raw: object) -> Kind:
    """`raw`: JSON as Python has it.

    Raises:
        Invalid: the first thing that is wrong, in the words of the API server's refusal. What may not change only the API
            server can tell.
    """
    if isinstance(raw, dict) and raw.get("apiVersion") not in (None, API_VERSION):
        raise Invalid("apiVersion", f"{raw['apiVersion']!r} is not {API_VERSION}")
    try:
        made = msgspec.convert(raw, kind)
    except msgspec.ValidationError as exc:
        said, _, path = str(exc).partition(" - at `$")
        raise Invalid(path.rstrip("`").lstrip("."), said) from exc
    for problem in _misformed(made, ""):
        raise problem
    return made


def checked(value: Part) -> Part:
    """A part by itself, whose types are right: also by its rules and forms.

    Raises:
        Invalid: the first thing that is wrong.
    """
    for problem in _misformed(value, ""):
        raise problem
    return value


def written(stored: Stored) -> dict[str, object]:
    """What is sent: absent where a field has its default."""
    made = msgspec.to_builtins(stored)
    assert isinstance(made, dict)
    return {"apiVersion": API_VERSION, **made}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a value of a type is held to, beside its type."""

    mark: Mark
    is_bound: bool
    """By anything of the mark but how a list is merged."""
    item: _Shape | None
    """Of each entry; None: it is no list."""


@dataclass(frozen=True, slots=True)
class _Field:
    """`name`: in JSON; `attribute`: in Python."""

    name: str
    attribute: str
    shape: _Shape


@cache
def _fields(kind: type[Value]) -> tuple[_Field, ...]:
    """Found out once for each type: a NodeCache is read a thousand times for one of its fields."""
    return tuple(_Field(field.encode_name, field.name, _shape(field.type)) for field in fields_of(kind))


def _shape(kind: inspect.Type) -> _Shape:
    mark, plain = marked(kind), bare(kind)
    item = _shape(plain.item_type) if isinstance(plain, inspect.ListType) else None
    return _Shape(mark, bool(mark.form or mark.quantity or mark.rules), item)


def _misformed(value: Value, path: str) -> Iterator[Invalid]:
    kind = type(value)
    given = {field.name: getattr(value, field.attribute) for field in _fields(kind)}
    for rule in kind.RULES:
        if rule.holds is not None and not rule.holds(given):
            yield Invalid(path, rule.message)
    for field in _fields(kind):
        one = given[field.name]
        if one is not None and (field.shape.is_bound or isinstance(one, Value | list)):
            yield from _misformed_at(field.shape, one, f"{path}.{field.name}".lstrip("."))


def _misformed_at(shape: _Shape, given: object, path: str) -> Iterator[Invalid]:
    mark = shape.mark
    if mark.form and isinstance(given, str) and not re.fullmatch(mark.form.pattern, given):
        yield Invalid(path, mark.form.message)
    if mark.quantity and isinstance(given, int | str):
        try:
            quantity_bytes(given)
        except ValueError as exc:
            yield Invalid(path, str(exc))
    for rule in mark.rules:
        if rule.holds is not None and not rule.holds({"self": given}):
            yield Invalid(path, rule.message)
    if isinstance(given, Value):
        yield from _misformed(given, path)
    elif isinstance(given, list) and shape.item is not None:
        yield from _twice(given, mark, path)
        for number, one in enumerate(given):
            yield from _misformed_at(shape.item, one, f"{path}[{number}]")


def _twice(given: list[object], mark: Mark, path: str) -> Iterator[Invalid]:
    """Entries of a set or a map are told apart."""
    if mark.list_type in (None, ListType.ATOMIC):
        return
    seen = set[tuple[object, ...]]()
    for one in given:
        attributes = _attributes(type(one)) if mark.keys and isinstance(one, Value) else {}
        key = tuple(getattr(one, attributes[name]) for name in mark.keys) or (one,)
        if key in seen:
            yield Invalid(path, f"duplicate entries for key {', '.join(map(str, key))}")
        seen.add(key)


@cache
def _attributes(kind: type[Value]) -> Mapping[str, str]:
    """By their names in JSON."""
    return {field.name: field.attribute for field in _fields(kind)}
