"""docs/kubernetes-api.md, from the kinds and the annotations: it cannot say anything else than the API server does. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import inspect

from prestage.api.annotations import MODEL_PREFIX, PREFIX, SETTINGS
from prestage.api.kinds import KINDS
from prestage.api.marks import Kind, ListType, Mark, Rule
from prestage.api.schemas import bare, described, fields_of, marked, summary
from prestage.api.values import API_VERSION, Condition, Stored, Value

_TOP = """# Kubernetes API: reference

Written by `python -m prestage.api docs` from the types in `daemonset/prestage/api`, as are the CRDs in `daemonset/chart-crds`.
`*`: required. What must hold beyond types stands below each table, in the words in which the API server refuses.

"""


def reference(kinds: Sequence[Kind] = KINDS) -> str:
    """The page."""
    return _TOP + "\n".join([*_annotations(), *(line for kind in kinds for line in _kind(kind))]).rstrip() + "\n"


def _annotations() -> Iterator[str]:
    yield "## Annotations on pod templates"
    yield "| annotation | example | |"
    yield "|---|---|---|"
    yield (
        f"| `{MODEL_PREFIX}<alias>` | `hf://org/name@main` | A model by ref, or a StagedModel by `ref:NAME`, "
        "`ref:NAMESPACE/NAME`; several annotations, several models. |"
    )
    for setting in SETTINGS:
        yield f"| `{PREFIX}{setting.name}` | `{setting.example}` | {_cell(setting.about)} |"
    yield ""


def _kind(kind: Kind) -> Iterator[str]:
    assert issubclass(kind.type, Stored)
    yield f"## {kind.name}"
    names = ", ".join(f"`{name}`" for name in (kind.plural, *kind.short_names))
    yield f"{summary(kind.type)}"
    yield ""
    scope = "in a namespace" if kind.namespaced else "of the cluster"
    yield f"`{API_VERSION}`, {scope}; {names}. `kubectl get` shows {', '.join(column.name.upper() for column in kind.columns)}."
    if kind.conditions:
        yield f"Conditions: {', '.join(f'`{name}`' for name in kind.conditions)}."
    yield ""
    for part in ("spec", "status"):
        field = next((one for one in fields_of(kind.type) if one.encode_name == part), None)
        if field is not None:
            plain = bare(field.type)
            assert isinstance(plain, inspect.StructType)
            yield f"### {kind.name}.{part}"
            yield "| field | type | |"
            yield "|---|---|---|"
            yield from _rows(plain, "")
            yield ""
            yield from _rules(plain)


def _rows(shape: inspect.StructType, path: str) -> Iterator[str]:
    for field in shape.fields:
        plain, mark = bare(field.type), marked(field.type)
        name = f"{path}{field.encode_name}"
        star = " *" if field.required else ""
        said = described(field.type)
        yield f"| `{name}`{star} | {_cell(_type(plain, mark))} | {_cell(said)}{_default(field)} |"
        inner = bare(plain.item_type) if isinstance(plain, inspect.ListType) else plain
        if isinstance(inner, inspect.StructType) and inner.cls is not Condition:
            yield from _rows(inner, f"{name}{'[]' if isinstance(plain, inspect.ListType) else ''}.")


def _type(shape: inspect.Type, mark: Mark) -> str:
    if mark.quantity:
        return "quantity"
    match shape:
        case inspect.EnumType():
            return " or ".join(f"`{member.value}`" for member in shape.cls)
        case inspect.ListType():
            item = _type(bare(shape.item_type), marked(shape.item_type))
            by = f", keyed by {', '.join(mark.keys)}" if mark.list_type is ListType.MAP else ""
            kind = "set" if mark.list_type is ListType.SET else "list"
            return f"{kind} of {item}{by}, at most {shape.max_length}"
        case inspect.StructType():
            return shape.cls.__name__
        case inspect.DictType():
            return "labels"
        case inspect.BoolType():
            return "boolean"
        case inspect.IntType():
            return "integer"
        case inspect.DateTimeType():
            return "time"
        case inspect.BytesType():
            return "base64"
    return "string"


def _default(field: inspect.Field) -> str:
    default = field.default
    if isinstance(default, str) and default:
        return f" Default `{default}`."
    return f" Default `{str(default).lower()}`." if isinstance(default, bool) else ""


def _rules(shape: inspect.StructType) -> Iterator[str]:
    found = list(dict.fromkeys(_all_rules(shape, "")))
    if found:
        yield "Refused with:"
        yield from (f"- `{path or 'spec'}`: {message}" for path, message in found)
        yield ""


def _all_rules(shape: inspect.StructType, path: str) -> Iterator[tuple[str, str]]:
    assert issubclass(shape.cls, Value)
    yield from ((path, rule.message) for rule in shape.cls.RULES)
    for field in shape.fields:
        yield from _rules_at(field.type, f"{path}.{field.encode_name}".lstrip("."))


def _rules_at(shape: inspect.Type, path: str) -> Iterator[tuple[str, str]]:
    mark, plain = marked(shape), bare(shape)
    rules: tuple[Rule, ...] = (*((mark.form.rule,) if mark.form else ()), *mark.rules)
    yield from ((path, rule.message) for rule in rules)
    if isinstance(plain, inspect.StructType) and plain.cls is not Condition:
        yield from _all_rules(plain, path)
    elif isinstance(plain, inspect.ListType):
        yield from _rules_at(plain.item_type, f"{path}[]")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
