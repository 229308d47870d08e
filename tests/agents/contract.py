"""The agent's OpenAPI document as a judge: every answer is looked up in it, and fails the test when it is not what it says."""

from __future__ import annotations

import http.client
import json
import re
import socket as sockets
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

TIMEOUT_S = 60.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the socket at `path`."""

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = sockets.socket(sockets.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and what was said; None for no content."""

    status: int
    body: Any

    @property
    def good(self) -> Any:
        """What was said, when it was no problem."""
        assert self.status < 300, self.body
        return self.body


@dataclass(slots=True)
class Stream:
    """Events of one connection. `Answer` instead when it was refused."""

    response: http.client.HTTPResponse
    refused: Answer | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while line := self.response.readline():
            event = json.loads(line)
            assert isinstance(event["event"], str)
            self.seen.append(event)
            yield event
            if event["event"] in ("done", "error"):
                return

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of that kind."""
        for event in self:
            if event["event"] == kind:
                return event
        raise AssertionError(f"no {kind!r} in {self.seen}")

    def last(self) -> dict[str, Any]:
        """The event that ends it."""
        assert self.refused is None, self.refused
        for event in self:
            if event["event"] in ("done", "error"):
                return event
        raise AssertionError(f"the stream broke off after {self.seen[-3:]}")


class Contract:
    """One document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.seen: set[tuple[str, str, int]] = set()
        """Method, path as in the document, status: what has been judged."""
        self._paths = {path: re.compile(re.sub(r"{\w+}", "[^/]+", path.replace(".", r"\."))) for path in document["paths"]}

    @classmethod
    def of(cls, socket: Path) -> Contract:
        """What the agent at `socket` says of itself."""
        connection = UnixConnection(socket)
        try:
            connection.request("GET", "/v1/openapi.json")
            return cls(json.loads(connection.getresponse().read()))
        finally:
            connection.close()

    def ask(self, socket: Path, method: str, path: str, body: Mapping[str, object] | None, query: Mapping[str, object]) -> Answer:
        """Ask and judge."""
        connection = UnixConnection(socket)
        try:
            target = urllib.parse.quote(path, safe="/%") + (f"?{urllib.parse.urlencode(query, doseq=True)}" if query else "")
            connection.request(method, target, body=None if body is None else json.dumps(body))
            response = connection.getresponse()
            return self.judge(method, path, response, response.read())
        finally:
            connection.close()

    @contextmanager
    def stream(self, socket: Path, method: str, path: str, body: Mapping[str, object] | None) -> Iterator[Stream]:
        """Ask for events."""
        connection = UnixConnection(socket)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body))
            response = connection.getresponse()
            if response.status >= 400:
                yield Stream(response, self.judge(method, path, response, response.read()))
            else:
                assert "application/x-ndjson" in self._described(method, path, 200)["content"]
                yield Stream(response)
        finally:
            connection.close()

    def judge(self, method: str, path: str, response: http.client.HTTPResponse, raw: bytes) -> Answer:
        """Hold an answer against the document."""
        described = self._described(method, path, response.status)
        if "content" not in described:
            assert raw == b""
            return Answer(response.status, None)
        kind = (response.getheader("Content-Type") or "").partition(";")[0]
        assert kind in described["content"], (method, path, response.status, kind)
        said = json.loads(raw)
        schema = {**described["content"][kind]["schema"], "components": self.document["components"]}
        Draft202012Validator(schema).validate(said)
        return Answer(response.status, said)

    def _described(self, method: str, path: str, status: int) -> dict[str, Any]:
        for template, pattern in self._paths.items():
            if pattern.fullmatch(path) and method.lower() in self.document["paths"][template]:
                responses = self.document["paths"][template][method.lower()]["responses"]
                self.seen.add((method, template, status))
                found: dict[str, Any] = responses.get(str(status)) or responses["default"]
                assert status >= 400 or str(status) in responses, (method, path, status)
                return found
        raise AssertionError(f"{method} {path} is not in the document")
