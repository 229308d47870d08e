"""The OpenAPI document, from the routes and the messages: it cannot say anything else than the agent does."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from prestage.cacher.agent.messages import Problem
from prestage.cacher.agent.routes import Route
from prestage.cacher.net.config import VERSION

STATUS_OF_KIND = {
    "misconfigured": 400,
    "denied": 403,
    "miss": 404,
    "corrupt": 409,
    "busy": 423,
    "bug": 500,
    "unavailable": 503,
    "full": 507,
}
"""Kinds of errors.py as HTTP statuses."""
_REF = "#/components/schemas/{name}"


def document(routes: Sequence[Route]) -> dict[str, object]:
    """OpenAPI 3.1 of `routes`."""
    given: list[object] = [route.gives for route in routes if route.gives is not None]
    taken: list[object] = [route.takes for route in routes if route.takes is not None]
    schemas, components = msgspec.json.schema_components([Problem, *given, *taken], ref_template=_REF)
    problem, rest = schemas[0], list(schemas[1:])
    answers = dict(zip(map(id, given), rest[: len(given)], strict=True))
    bodies = dict(zip(map(id, taken), rest[len(given) :], strict=True))
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        answer = answers.get(id(route.gives)) if route.gives is not None else None
        body = bodies.get(id(route.takes)) if route.takes is not None else None
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, answer, body, components, problem)
    info = {"title": "Prestage agent", "version": VERSION, "description": "On a unix socket; SO_PEERCRED says who calls."}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _operation(
    route: Route, answer: object, body: object, components: dict[str, dict[str, object]], problem: object
) -> dict[str, object]:
    parameters: list[object] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    operation: dict[str, object] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.summary,
        "x-role": route.role.name.lower(),
        "responses": {
            **_good(route, answer),
            "default": {"description": "A problem", "content": {"application/json": {"schema": problem}}},
        },
    }
    if route.takes is not None and route.method == "POST":
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    elif route.takes is not None:
        parameters += _query(components[route.takes.__name__])
    if parameters:
        operation["parameters"] = parameters
    return operation


def _good(route: Route, answer: object) -> dict[str, object]:
    if route.stream is not None:
        lines = {"schema": {"type": "string", "description": "One JSON object a line: docs/cli.md, `stage --json`"}}
        return {"200": {"description": "Events, one JSON object a line", "content": {"application/x-ndjson": lines}}}
    if answer is None:
        return {"204": {"description": "Done"}}
    return {"200": {"description": "Done", "content": {"application/json": {"schema": answer}}}}


def _query(schema: dict[str, object]) -> list[object]:
    properties, required = schema["properties"], schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    return [
        {"name": name, "in": "query", "required": name in required, "schema": kind, "explode": True}
        for name, kind in properties.items()
    ]
