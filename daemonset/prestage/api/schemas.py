"""From a type to the structural OpenAPI schema that the API server checks with. Pure.

Structural: no $ref, no unions but int-or-string quantities, every node has a type. Defaults are written for scalars only, so
that what a user left out is visible in the stored object.
"""

from __future__ import annotations

import enum
import inspect as python
from collections.abc import Mapping
from functools import cache

import msgspec
from msgspec import inspect

from prestage.api.marks import MARK, ListType, Mark, Rule
from prestage.api.values import Stored, Value

Schema = dict[str, object]

QUANTITY_RULE = Rule(
    "type(self) == int ? self >= 0 : (isQuantity(self) && sign(quantity(self)) >= 0)",
    "write bytes as 500Gi, 2T or a plain number",
)


def schema_of(kind: type[Stored]) -> Schema:
    """The whole object: `metadata` is the API server's own business."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    fields = {field.encode_name: field for field in info.fields}
    top: Schema = {"type": "object", "description": summary(kind), "required": ["spec"], "properties": {}}
    properties: Schema = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    properties |= {name: _of(field.type) for name, field in fields.items() if name in ("spec", "status")}
    top["properties"] = properties
    return top


def summary(documented: type) -> str:
    """A class's docstring on one line."""
    return " ".join((python.getdoc(documented) or "").split())


def mark_of(shape: inspect.Type) -> Mark:
    """What `marks` put on it; an empty mark where nothing was."""
    if isinstance(shape, inspect.Metadata) and shape.extra:
        found = shape.extra.get(MARK)
        if isinstance(found, Mark):
            return found
    return Mark()


def bare(shape: inspect.Type) -> inspect.Type:
    """Without description and `| None`."""
    if isinstance(shape, inspect.Metadata):
        return bare(shape.type)
    if isinstance(shape, inspect.UnionType):
        rest = [one for one in shape.types if not isinstance(one, inspect.NoneType)]
        if len(rest) == 1:
            return bare(rest[0])
    return shape


def described(shape: inspect.Type) -> str:
    """Its description: the outermost one counts."""
    if isinstance(shape, inspect.Metadata):
        said = (shape.extra_json_schema or {}).get("description")
        return str(said) if said else described(shape.type)
    if isinstance(shape, inspect.UnionType):
        return next((said for one in shape.types if (said := described(one))), "")
    return ""


def marked(shape: inspect.Type) -> Mark:
    """The mark, wherever it stands between Annotated, | None and the type itself."""
    if isinstance(shape, inspect.Metadata):
        own = mark_of(shape)
        return own if own != Mark() else marked(shape.type)
    if isinstance(shape, inspect.UnionType):
        return next((mark for one in shape.types if (mark := marked(one)) != Mark()), Mark())
    return Mark()


def _of(shape: inspect.Type) -> Schema:
    mark, plain = marked(shape), bare(shape)
    made = _quantity() if mark.quantity else _plain(plain, mark)
    rules = [*([mark.form.rule] if mark.form else []), *mark.rules]
    if isinstance(plain, inspect.StructType):
        assert issubclass(plain.cls, Value)
        rules = [*plain.cls.RULES, *rules]
        if plain.cls.ATOMIC:
            made["x-kubernetes-map-type"] = "atomic"
    if said := described(shape):
        made["description"] = said
    if rules:
        given = made.pop("x-kubernetes-validations", [])
        assert isinstance(given, list)
        made["x-kubernetes-validations"] = [*given, *({"rule": rule.cel, "message": rule.message} for rule in rules)]
    return made


def _plain(shape: inspect.Type, mark: Mark) -> Schema:
    match shape:
        case inspect.StructType():
            return _struct(shape)
        case inspect.ListType():
            return _list(shape, mark)
        case inspect.DictType():
            limit = {} if shape.max_length is None else {"maxProperties": shape.max_length}
            return {"type": "object", "additionalProperties": _of(shape.value_type), **limit}
        case inspect.EnumType():
            return {"type": "string", "enum": [member.value for member in shape.cls]}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            limits = {"minimum": shape.ge, "maximum": shape.le if shape.le != 2**63 - 1 else None}
            return {"type": "integer", "format": "int64", **_given(limits)}
        case inspect.DateTimeType():
            return {"type": "string", "format": "date-time"}
        case inspect.StrType() | inspect.BytesType():
            pattern = shape.pattern if isinstance(shape, inspect.StrType) else None
            lengths = {"minLength": shape.min_length, "maxLength": shape.max_length}
            return {"type": "string", **_given(lengths), **_given({"format": mark.format, "pattern": pattern})}
    raise TypeError(f"no schema for {shape!r}: the API has no such values")


def _struct(shape: inspect.StructType) -> Schema:
    properties: Schema = {}
    for field in shape.fields:
        made = _of(field.type)
        if isinstance(field.default, enum.Enum):
            made["default"] = field.default.value
        elif isinstance(field.default, bool | int | str) and field.default != "":
            made["default"] = field.default
        properties[field.encode_name] = made
    required = [field.encode_name for field in shape.fields if field.required]
    made = {"type": "object", "description": summary(shape.cls), "properties": properties}
    return {**made, "required": required} if required else made


def _list(shape: inspect.ListType, mark: Mark) -> Schema:
    if mark.list_type is None:
        raise TypeError(f"a list without list type: {shape!r}")
    made: Schema = {"type": "array", "items": _of(shape.item_type), "x-kubernetes-list-type": str(mark.list_type)}
    if mark.list_type is ListType.MAP:
        made["x-kubernetes-list-map-keys"] = list(mark.keys)
    return {**made, **_given({"minItems": shape.min_length, "maxItems": shape.max_length})}


def _quantity() -> Schema:
    rule = {"rule": QUANTITY_RULE.cel, "message": QUANTITY_RULE.message}
    either = [{"type": "integer"}, {"type": "string"}]
    return {"anyOf": either, "x-kubernetes-int-or-string": True, "maxLength": 32, "x-kubernetes-validations": [rule]}


def _given(limits: Mapping[str, object]) -> Schema:
    return {name: limit for name, limit in limits.items() if limit is not None}


@cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    """As they stand on the wire, in order. Kept: finding them out takes milliseconds, and each object that is read asks."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return info.fields
