"""What the test hub says: JSON items of a repository, and the refusals of the real Hub with their headers. Pure."""

from __future__ import annotations

import json
import secrets

from aiohttp import web

from servers.hub_repositories import Entry, Repository


def item(repository: Repository, path: str, entry: Entry) -> dict[str, object]:
    item: dict[str, object] = {"type": "file", "oid": entry.oid, "size": entry.size_bytes, "path": path}
    if entry.lfs is not None:
        item["lfs"] = {"oid": entry.lfs.sha256, "size": entry.size_bytes, "pointerSize": entry.lfs.pointer_bytes}
        if repository.settings.xet:
            item["xetHash"] = entry.xet_hash
    return item


def directory(path: str) -> dict[str, object]:
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


def sibling(entry: Entry) -> dict[str, object]:
    about: dict[str, object] = {"size": entry.size_bytes, "blobId": entry.oid}
    if entry.lfs is not None:
        lfs = {"sha256": entry.lfs.sha256, "size": entry.size_bytes, "pointerSize": entry.lfs.pointer_bytes}
        about["lfs"] = lfs
    return about


def listing(repository: Repository, commit: str, *, inside: str, recursive: bool) -> list[dict[str, object]]:
    items: dict[str, dict[str, object]] = {}
    for path, entry in repository.commits[commit].items():
        if not path.startswith(inside):
            continue
        parts = path[len(inside) :].split("/")
        for depth in range(1, len(parts)):
            if recursive or depth == 1:
                folder = inside + "/".join(parts[:depth])
                items[folder] = directory(folder)
        if recursive or len(parts) == 1:
            items[path] = item(repository, path, entry)
    return list(items.values())


class Refused(web.HTTPException):
    """An answer that ends the handler, whatever its status."""

    status_code = 400

    def __init__(self, status: int, headers: dict[str, str], text: str) -> None:
        self.status_code = status
        super().__init__(headers=headers, text=text, content_type="application/json" if text else None)


def refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Refused:
    known = {"X-Error-Message": message, "X-Request-Id": f"Root=1-{secrets.token_hex(8)}"}
    known |= {"X-Error-Code": code} if code else {}
    return Refused(status, {**known, **(headers or {})}, json.dumps({"error": message}))


def rate_limited(policy: str, reset_s: int) -> Refused:
    limits = {"RateLimit": f'"{policy}";r=0;t={reset_s}', "RateLimit-Policy": f'"fixed window";"{policy}";q=500;w=300'}
    return refusal(429, "", "We had to rate limit your IP", limits)


def moved(location: str) -> Refused:
    return Refused(307, {"Location": location}, "")


def cdn_refusal(status: int, code: str, message: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return web.Response(status=status, content_type="application/xml", text=text)
