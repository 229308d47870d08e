"""AdmissionReview v1: the API server's question, and our answers. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from prestage.control.podspec import part
from prestage.kube.ports import Object, metadata_of

_VERSION = "admission.k8s.io/v1"


class Unreadable(ValueError):
    """It is no AdmissionReview: nobody can be answered."""


@dataclass(frozen=True, slots=True)
class Question:
    """`namespace`: of the request; the object of a create need not name it. `before`: None on create."""

    uid: str
    kind: str
    operation: str
    namespace: str
    object: Object
    before: Object | None
    dry_run: bool


def asked(raw: bytes) -> Question:
    """Raises Unreadable."""
    try:
        read = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Unreadable(f"no JSON: {exc}") from exc
    request = part(read, "request")
    seen = request.get("object")
    if not request.get("uid") or not isinstance(seen, dict):
        raise Unreadable("no request with uid and object")
    before = request.get("oldObject")
    return Question(
        uid=str(request["uid"]),
        kind=str(part(request, "kind").get("kind", "")),
        operation=str(request.get("operation", "")),
        namespace=str(request.get("namespace") or metadata_of(seen).get("namespace") or ""),
        object=seen,
        before=before if isinstance(before, dict) else None,
        dry_run=request.get("dryRun") is True,
    )


def passed(uid: str, patch: Sequence[Object] = (), *, warnings: Sequence[str] = ()) -> bytes:
    """Allowed, changed by `patch`."""
    answer: dict[str, object] = {"uid": uid, "allowed": True}
    if patch:
        answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(list(patch))).decode()}
    if warnings:
        answer["warnings"] = [one[:250] for one in warnings]  # longer ones may be cut by the API server
    return _answer(answer)


def refused(uid: str, message: str) -> bytes:
    """Not allowed: `kubectl` prints `message` as it is."""
    status = {"status": "Failure", "code": 422, "reason": "Invalid", "message": message}
    return _answer({"uid": uid, "allowed": False, "status": status})


def _answer(response: Object) -> bytes:
    return msgspec.json.encode({"apiVersion": _VERSION, "kind": "AdmissionReview", "response": response})
