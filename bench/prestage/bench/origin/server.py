"""The origin's HTTP server: a Hub good enough for huggingface_hub and for `hf://`, and plain files, all behind one link.

    /api/models/<org>/<name>[/revision/<rev>]        what the repository holds
    /api/models/<org>/<name>/tree/<rev>              its files
    /<org>/<name>/resolve/<rev>/<path>               a small file, or 302 to
    /cdn/<sha256>                                    an LFS file, on a second port: clients follow that as another host
    /files/<org>/<name>/<path>                       any file, without redirect

HTTP/1.1 with keep-alive, Range, If-Match and HEAD; bodies leave by sendfile. Loopback only. `python -m` runs it: settings come
as one JSON line on stdin, the endpoint goes out as one on stdout, and it ends when stdin does: it cannot outlive its parent.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from prestage.bench.origin.catalog import Entry, Repository, read_repository
from prestage.bench.origin.link import Link

_STEP_BYTES = 256 << 10
_REPOSITORY = r"(?P<repository>[^/]+/[^/]+)"


class OriginServer(ThreadingHTTPServer):
    """Serves `repositories` through `link`; sends clients to `cdn` (an endpoint; default: itself) for LFS files."""

    daemon_threads = True
    # all connections of a client open at once, before the first is accepted
    request_queue_size = 128

    def __init__(self, repositories: Sequence[Repository], link: Link, cdn: str | None = None) -> None:
        self.repositories = {repository.name: repository for repository in repositories}
        entries = [entry for repository in repositories for entry in repository.entries.values()]
        self.by_sha256 = {entry.sha256: entry for entry in entries}
        self.link = link
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cdn = cdn or self.endpoint

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no event; anything else is."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type] # socketserver's own types are narrower


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OriginServer
    # one segment for a head, not one for each of its lines
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Any request."""
        parts = urlsplit(self.path)
        for pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, unquote(parts.path))
            if found:
                answer(self, found.groupdict(), parse_qs(parts.query))
                return
        self._refuse(404, "EntryNotFound", "no such page")

    def do_HEAD(self) -> None:
        """The same, less the body."""
        self.do_GET()

    def about(self, named: Mapping[str, str], _query: object) -> None:
        """What a repository holds."""
        if repository := self._repository(named):
            self._send_json(repository.about())

    def tree(self, named: Mapping[str, str], query: Mapping[str, list[str]]) -> None:
        """The files of a repository."""
        if repository := self._repository(named):
            self._send_json(repository.tree(recursive=query.get("recursive", ["false"])[0].lower() in ("true", "1")))

    def resolve(self, named: Mapping[str, str], _query: object) -> None:
        """A small file, or where the large one is."""
        repository = self._repository(named)
        entry = self._entry(repository, named["path"])
        if repository is None or entry is None:
            return
        headers = {"X-Repo-Commit": repository.commit, "X-Linked-Size": str(entry.size_bytes), "X-Linked-ETag": entry.etag}
        if entry.is_lfs:
            self._send(302, {**headers, "Location": f"{self.server.cdn}/cdn/{entry.sha256}"}, b"")
        else:
            self._send_file(entry, headers)

    def large(self, named: Mapping[str, str], _query: object) -> None:
        """An LFS file."""
        entry = self.server.by_sha256.get(named["sha256"])
        if entry is None:
            self._refuse(404, "EntryNotFound", "no such object")
        else:
            self._send_file(entry, {})

    def plain(self, named: Mapping[str, str], _query: object) -> None:
        """A file without redirect."""
        if entry := self._entry(self._repository(named), named["path"]):
            self._send_file(entry, {})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
        """Nothing: stderr is for what goes wrong."""

    def _repository(self, named: Mapping[str, str]) -> Repository | None:
        repository = self.server.repositories.get(named["repository"])
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        if not repository.knows(named.get("revision") or "main"):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {named['revision']}")
            return None
        return repository

    def _entry(self, repository: Repository | None, path: str) -> Entry | None:
        if repository is None:
            return None
        entry = repository.entries.get(path)
        if entry is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
        return entry

    def _send_file(self, entry: Entry, headers: Mapping[str, str]) -> None:
        size = entry.size_bytes
        about = {"ETag": entry.etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        wanted = self.headers.get("If-Match")
        if wanted not in (None, "*", entry.etag):
            self._send(412, about, b"")
            return
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        start, stop = _span(asked.group(1), asked.group(2), size) if asked and any(asked.groups()) else (0, size)
        if asked and start >= stop:
            self._send(416, {**about, "Content-Range": f"bytes */{size}"}, b"")
            return
        if asked:
            about["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._send_head(206 if asked else 200, about, stop - start)
        if self.command != "HEAD":
            self._send_body(entry.path, start, stop)

    def _send_body(self, file: Path, start: int, stop: int) -> None:
        fd = os.open(file, os.O_RDONLY)
        try:
            while start < stop:
                step = min(_STEP_BYTES, stop - start)
                self.server.link.send(step)
                sent = 0
                while sent < step:
                    sent += os.sendfile(self.connection.fileno(), fd, start + sent, step - sent)
                start += step
        finally:
            os.close(fd)

    def _send_json(self, content: object) -> None:
        self._send(200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(content).encode())

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, {"X-Error-Code": code, "X-Error-Message": message}, json.dumps({"error": message}).encode())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._send_head(status, headers, len(body))
        if self.command != "HEAD" and body:
            self.server.link.send(len(body))
            self.wfile.write(body)
            self.wfile.flush()

    def _send_head(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()


_Answer = Callable[[_Handler, Mapping[str, str], Mapping[str, list[str]]], None]
_ROUTES: tuple[tuple[str, _Answer], ...] = (
    (rf"/api/models/{_REPOSITORY}/tree/(?P<revision>[^/]+)/?", _Handler.tree),
    (rf"/api/models/{_REPOSITORY}(?:/revision/(?P<revision>[^/]+))?", _Handler.about),
    (r"/cdn/(?P<sha256>[0-9a-f]{64})", _Handler.large),
    (rf"/files/{_REPOSITORY}/(?P<path>.+)", _Handler.plain),
    (rf"/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
)


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    """Half-open byte range of `first-last`, of `first-`, or of the last so many bytes (`-last`)."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def main() -> None:
    """Serve until stdin ends."""
    settings = json.loads(sys.stdin.readline())
    repositories = [read_repository(name, Path(at["folder"]), at.get("sha256")) for name, at in settings["repositories"].items()]
    link = Link(settings["bytes_per_s"])
    cdn = OriginServer(repositories, link)
    hub = OriginServer(repositories, link, cdn.endpoint)
    for server in (cdn, hub):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(json.dumps({"endpoint": hub.endpoint}) + "\n")
    sys.stdout.flush()
    # the threads are daemons: they end with this one
    sys.stdin.read()


if __name__ == "__main__":
    main()
