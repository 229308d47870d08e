"""What an API server serves as OpenAPI, as the files that kubeconform reads: offline, of this version, our kinds included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

Schema = dict[str, Any]
_EITHER = {"io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.api.resource.Quantity"}


def write(openapi: object, folder: Path) -> str:
    """One file for each kind, unknown fields refused. Returns the location that kubeconform is told."""
    definitions = cast("dict[str, Schema]", cast(Schema, openapi)["definitions"])
    strict = {name: {"type": ["string", "integer"]} if name in _EITHER else _strict(one) for name, one in definitions.items()}
    for name, one in definitions.items():
        for kind in one.get("x-kubernetes-group-version-kind", ()):
            group = kind["group"].partition(".")[0]
            suffix = "-".join(part for part in (group, kind["version"]) if part)
            needed = {used: strict[used] for used in _closure(name, strict)}
            schema = {"$ref": f"#/definitions/{name}", "definitions": needed}
            (folder / f"{kind['kind'].lower()}-{suffix}.json").write_text(json.dumps(schema))
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def _strict(schema: Schema) -> Schema:
    if schema.get("properties") and "additionalProperties" not in schema:
        return {**schema, "additionalProperties": False}
    return schema


def _closure(name: str, definitions: dict[str, Schema]) -> set[str]:
    found, open_ = set[str](), [name]
    while open_:
        if (next_ := open_.pop()) not in found:
            found.add(next_)
            open_ += _references(definitions[next_])
    return found


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(target := value.get("$ref"), str):
            yield target.removeprefix("#/definitions/")
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
