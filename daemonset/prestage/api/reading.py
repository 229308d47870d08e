"""From the API server's JSON to types and back. Pure.

Reading is lenient where the next version may say more (unknown fields pass), strict in what we know: types, limits, forms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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


def _misformed(value: Value, path: str) -> Iterator[Invalid]:
    fields = {field.encode_name: getattr(value, field.name) for field in fields_of(type(value))}
    for rule in type(value).RULES:
        if rule.holds is not None and not rule.holds(fields):
            yield Invalid(path, rule.message)
    for field in fields_of(type(value)):
        given = fields[field.encode_name]
        if given is not None:
            yield from _misformed_at(field.type, given, f"{path}.{field.encode_name}".lstrip("."))


def _misformed_at(shape: inspect.Type, given: object, path: str) -> Iterator[Invalid]:
    mark, plain = marked(shape), bare(shape)
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
    elif isinstance(given, list) and isinstance(plain, inspect.ListType):
        yield from _twice(given, mark, path)
        for number, one in enumerate(given):
            yield from _misformed_at(plain.item_type, one, f"{path}[{number}]")


def _twice(given: list[object], mark: Mark, path: str) -> Iterator[Invalid]:
    """Entries of a set or a map are told apart."""
    if mark.list_type in (None, ListType.ATOMIC):
        return
    seen = set[tuple[object, ...]]()
    for one in given:
        names = {field.encode_name: field.name for field in fields_of(type(one))} if isinstance(one, Value) else {}
        key = tuple(getattr(one, names[name]) for name in mark.keys) or (one,)
        if key in seen:
            yield Invalid(path, f"duplicate entries for key {', '.join(map(str, key))}")
        seen.add(key)
