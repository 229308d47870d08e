"""A Hugging Face Hub on loopback, faithful enough that huggingface_hub runs unmodified against it.

    with Hub(root) as hub:                     # folders as in servers.hub_repositories
        hub.endpoint                           # HF_ENDPOINT
        hub.faults.rate_limit = 3              # the next three requests get 429 with the Hub's RateLimit header
        hub.faults.cuts, hub.faults.cut_bytes = 2, 65536

An LFS file's /resolve answers 302 to a second port, the CDN, with a signed URL that expires after `faults.cdn_ttl_s`:
another origin, so that a client must drop Authorization. Small files are redirected to a cacheable path of the hub itself.
Runs on a thread with an event loop of its own; `faults` may be set at any time, counters run down to 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote, urlencode

from aiohttp import web

from servers.hub_answers import cdn_refusal, directory, item, listing, moved, rate_limited, refusal, sibling
from servers.hub_repositories import Repository, read_repositories

_THREADS = 4
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class HubFaults:
    """What goes wrong next. Counters (`rate_limit`, `cuts`, `cdn_fails`) are used up, the rest stays."""

    rate_limit: int = 0
    rate_reset_s: int = 1
    cuts: int = 0
    cut_bytes: int = 65536
    cdn_fails: int = 0
    cdn_status: int = 503
    cdn_ttl_s: float = 3600
    gzip: bool = False
    """Compress small files for clients that accept it, as the real Hub does: no Content-Length then."""
    page: int = 1000
    """Entries on one page of a tree listing."""

    def take(self, counter: str) -> bool:
        left: int = getattr(self, counter)
        setattr(self, counter, max(0, left - 1))
        return left > 0

    def clear(self) -> None:
        for known in fields(self):
            setattr(self, known.name, known.default)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, whichever port it came to."""

    method: str
    path: str
    range: str | None
    authorized: bool
    status: int


class Hub:
    """See the module."""

    def __init__(self, root: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host, self._port = host, port
        self.faults = HubFaults()
        self.log: list[Seen] = []
        self.endpoint = ""
        self.cdn = ""
        self.root = root
        self._key = secrets.token_bytes(16)
        self._repositories = read_repositories(root)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        started: threading.Event = threading.Event()
        self._runners: list[web.AppRunner] = []
        self._thread = threading.Thread(target=self._run, args=(started,), name="hub")
        self._thread.start()
        if not started.wait(60):
            raise RuntimeError("the test hub did not start within a minute")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def reload(self) -> None:
        """Read the folders again: changed files are new commits of their branch."""
        self._repositories = read_repositories(self.root)

    def commit(self, repository: str, branch: str = "main") -> str:
        return self._repositories[repository].branches[branch]

    def disconnect(self) -> None:
        """End what clients that live longer than a test keep open."""
        self._loop.call_soon_threadsafe(self._disconnect)

    def _disconnect(self) -> None:
        for runner in self._runners:
            for connection in runner.server.connections if runner.server is not None else ():
                connection.force_close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        await self._start_threads()
        runners = [web.AppRunner(app, access_log=None, shutdown_timeout=0.2) for app in (self._hub_app(), self._cdn_app())]
        self._runners, ports = runners, []
        for runner, port in zip(runners, (self._port, 0), strict=True):
            await runner.setup()
            await web.TCPSite(runner, self._host, port).start()
            ports.append(runner.addresses[0][1])
        self.endpoint, self.cdn = (f"http://{self._host}:{port}" for port in ports)
        started.set()
        await self._stop.wait()
        for runner in runners:
            await runner.cleanup()

    async def _start_threads(self) -> None:
        """Those that files are read in, all at once: what is there before a test is not left behind by it."""
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="hub-files"))
        all_are_there = threading.Barrier(_THREADS)
        await asyncio.gather(*(asyncio.to_thread(all_are_there.wait) for _ in range(_THREADS)))

    def _hub_app(self) -> web.Application:
        app = web.Application(middlewares=[self._recorded])
        api = "/api/{kind:models|datasets}/{org}/{name}"
        file = "/{org:(?!api$)[^/]+}/{name}/resolve/{revision}/{path:.+}"
        app.add_routes(
            [
                web.get(api, self._info),
                web.get(api + "/revision/{revision:.+}", self._info),
                web.get(api + "/tree/{revision}", self._tree),
                web.get(api + "/tree/{revision}/{path:.*}", self._tree),
                web.post(api + "/paths-info/{revision}", self._paths_info),
                web.get(api + "/refs", self._refs),
                web.get("/api/resolve-cache/{kind}/{org}/{name}/{revision}/{path:.+}", self._small_file),
                web.get("/datasets" + file, self._resolve),
                web.get(file, self._resolve),
            ]
        )
        return app

    def _cdn_app(self) -> web.Application:
        app = web.Application(middlewares=[self._recorded])
        app.add_routes([web.get("/repos/{org}/{name}/{sha256}", self._large_file)])
        return app

    @web.middleware
    async def _recorded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            answer = await handler(request)
        except web.HTTPException as said:
            self._note(request, said.status)
            raise
        self._note(request, answer.status)
        return answer

    def _note(self, request: web.Request, status: int) -> None:
        headers = request.headers
        self.log.append(Seen(request.method, request.path, headers.get("Range"), "Authorization" in headers, status))

    def _admit(self, request: web.Request, *, api: bool) -> tuple[Repository, str]:
        """The repository and commit that a request means, by the rules of the real Hub; raises its refusals."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.faults.take("rate_limit"):
            raise rate_limited("api" if api else "resolvers", self.faults.rate_reset_s)
        if token and not token.startswith("hf_"):
            raise refusal(401, "", "Invalid credentials in Authorization header")
        repository = self._repositories.get(f"{request.match_info['org']}/{request.match_info['name']}")
        known = repository is not None and token in repository.settings.tokens
        if repository is None or (repository.settings.private and not known):
            message = "Repository not found" if token else "Invalid username or password."
            raise refusal(404 if token else 401, "RepoNotFound", message)
        if repository.settings.renamed_to:
            raise moved(request.raw_path.replace(repository.name, repository.settings.renamed_to, 1))
        if repository.settings.gated and not known and not api:
            why = f"Visit {self.endpoint}/{repository.name} to ask for access." if token else "Please log in."
            raise refusal(403 if token else 401, "GatedRepo", f"Access to model {repository.name} is restricted. {why}")
        revision = unquote(request.match_info.get("revision") or "main")
        commit = repository.commit_of(revision)
        if commit is None:
            raise refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    async def _info(self, request: web.Request) -> web.Response:
        repository, commit = self._admit(request, api=True)
        blobs = request.query.get("blobs", "").lower() == "true"
        entries = repository.commits[commit].items()
        siblings = [{"rfilename": path, **(sibling(entry) if blobs else {})} for path, entry in entries]
        about: dict[str, object] = {"_id": "0", "id": repository.name, "modelId": repository.name, "sha": commit}
        about["siblings"] = siblings
        about |= {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z", "disabled": False}
        about |= {"private": repository.settings.private, "gated": "manual" if repository.settings.gated else False}
        about |= {"downloads": 0, "likes": 0, "tags": [], "author": repository.name.split("/")[0]}
        return web.json_response(about)

    async def _tree(self, request: web.Request) -> web.Response:
        repository, commit = self._admit(request, api=True)
        inside = request.match_info.get("path", "").strip("/")
        recursive = request.query.get("recursive", "").lower() in ("true", "1")
        items = listing(repository, commit, inside=f"{inside}/" if inside else "", recursive=recursive)
        if inside and not items:
            raise refusal(404, "EntryNotFound", f"{inside} does not exist on {commit}")
        at, limit = int(request.query.get("cursor", 0)), int(request.query.get("limit", self.faults.page))
        headers = {}
        if at + limit < len(items):
            query = urlencode({**request.query, "cursor": at + limit})
            headers["Link"] = f'<{self.endpoint}{request.path}?{query}>; rel="next"'
        return web.json_response(items[at : at + limit], headers=headers)

    async def _paths_info(self, request: web.Request) -> web.Response:
        repository, commit = self._admit(request, api=True)
        if request.content_type == "application/json":
            asked = (await request.json())["paths"]
        else:
            asked = [str(path) for path in (await request.post()).getall("paths")]
        files = repository.commits[commit]
        found = []
        for path in [asked] if isinstance(asked, str) else asked:
            if path in files:
                found.append(item(repository, path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                found.append(directory(path))
        return web.json_response(found)

    async def _refs(self, request: web.Request) -> web.Response:
        repository, _ = self._admit(request, api=True)
        named = repository.branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in named]
        return web.json_response({"branches": branches, "converts": [], "tags": []})

    async def _resolve(self, request: web.Request) -> web.Response:
        repository, commit = self._admit(request, api=False)
        path = request.match_info["path"]
        entry = repository.commits[commit].get(path)
        if entry is None:
            raise refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        etag = f'"{entry.oid if entry.lfs is None else entry.lfs.sha256}"'
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Cache-Control": "no-store"}
        headers |= {"X-Linked-Size": str(entry.size_bytes), "X-Linked-ETag": etag}
        if entry.lfs is None:
            cached = f"/api/resolve-cache/models/{repository.name}/{commit}/{quote(path)}?etag={quote(etag)}"
            return web.Response(status=307, headers={**headers, "ETag": etag, "Location": cached})
        if repository.settings.xet:
            cas = f"{self.endpoint}/cas/v1/reconstructions/{entry.xet_hash}"
            token = f"{self.endpoint}/api/models/{repository.name}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": entry.xet_hash}
            headers |= {"Link": f'<{token}>; rel="xet-auth", <{cas}>; rel="xet-reconstruction-info"'}
        signed = self._signed(f"/repos/{repository.name}/{entry.lfs.sha256}", entry.lfs.sha256)
        return web.Response(status=302, headers={**headers, "Location": signed})

    def _signed(self, path: str, sha256: str) -> str:
        expires = f"{time.time() + self.faults.cdn_ttl_s:.3f}"
        return f"{self.cdn}{path}?{urlencode({'Expires': expires, 'Signature': self._signature(sha256, expires)})}"

    def _signature(self, sha256: str, expires: str) -> str:
        return hmac.new(self._key, f"{sha256} {expires}".encode(), hashlib.sha256).hexdigest()

    async def _small_file(self, request: web.Request) -> web.StreamResponse:
        repository, commit = self._admit(request, api=False)
        entry = repository.commits[commit].get(request.match_info["path"])
        if entry is None:
            raise refusal(404, "EntryNotFound", "Entry not found")
        headers = {"ETag": f'"{entry.oid}"', "X-Repo-Commit": commit, "Content-Type": "text/plain; charset=utf-8"}
        answer = web.Response(body=entry.path.read_bytes(), headers={**headers, "Accept-Ranges": "bytes"})
        if self.faults.gzip and "gzip" in request.headers.get("Accept-Encoding", ""):
            answer.enable_compression(web.ContentCoding.gzip)
        return answer

    async def _large_file(self, request: web.Request) -> web.StreamResponse:
        sha256, expires = request.match_info["sha256"], request.query.get("Expires", "0")
        if not hmac.compare_digest(request.query.get("Signature", ""), self._signature(sha256, expires)):
            return cdn_refusal(403, "SignatureDoesNotMatch", "bad signature")
        if float(expires) < time.time():
            return cdn_refusal(403, "AccessDenied", "Request has expired")
        if "Authorization" in request.headers:
            return cdn_refusal(400, "InvalidArgument", "Only one auth mechanism allowed")
        if self.faults.take("cdn_fails"):
            return cdn_refusal(self.faults.cdn_status, "SlowDown", "Please reduce your request rate")
        path = self._path_of(sha256)
        if self.faults.take("cuts"):
            return await self._cut(request, path)
        # aiohttp's own: Range, 206, 416, If-Match, and an ETag that is not the SHA-256
        return web.FileResponse(path, headers={"Content-Type": "binary/octet-stream"})

    def _path_of(self, sha256: str) -> Path:
        commits = [files for repository in self._repositories.values() for files in repository.commits.values()]
        entries = [entry for files in commits for entry in files.values()]
        return next(entry.path for entry in entries if entry.lfs is not None and entry.lfs.sha256 == sha256)

    async def _cut(self, request: web.Request, path: Path) -> web.StreamResponse:
        """The head, some bytes, then the end of the connection."""
        content = await asyncio.to_thread(path.read_bytes)
        size_bytes = len(content)
        start, stop = request.http_range.start or 0, request.http_range.stop or size_bytes
        ranged = "Range" in request.headers
        answer = web.StreamResponse(status=206 if ranged else 200, headers={"Content-Length": str(stop - start)})
        if ranged:
            answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
        await answer.prepare(request)
        await answer.write(content[start : min(start + self.faults.cut_bytes, stop - 1)])
        if request.transport is not None:
            request.transport.close()
        return answer
