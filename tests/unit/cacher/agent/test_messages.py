"""Whatever bytes come as body, query or path: what is not a request is a problem of the client's, never one of ours."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
import threading
import urllib.parse
from pathlib import Path

from agents.contract import Contract, UnixConnection
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.agent.http import Api
from prestage.cacher.agent.narrow import Sockets
from prestage.cacher.agent.openapi import document
from prestage.cacher.agent.routes import ROUTES
from prestage.cacher.agent.service import Service
from prestage.cacher.agent.stages import Stages
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins import open_origin
from prestage.cacher.staging import Stager
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine


class Served:
    """The real routes over a real store, on a thread of this process."""

    def __init__(self, root: Path) -> None:
        self._root, self.socket = root, root.parent / "s"
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)

    async def _serve(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        end = self._end = asyncio.Event()
        config = AgentConfig(root=self._root, socket=self.socket)
        client = HttpClient()
        with Store.open(self._root, own=True) as store, Engine() as engine:
            async with asyncio.TaskGroup() as group:
                stages = Stages(
                    Stager(store, engine, client),
                    lambda ref, cancel: open_origin(ref, client=client, environ={}),
                    store.wishes,
                    config,
                    group=group,
                )
                service = Service(store, stages, config, loop)
                service.mounts.sockets = Sockets(service, config)
                runner = web.AppRunner(Api(service, config, ROUTES).application(), access_log=None, shutdown_timeout=1)
                await runner.setup()
                await web.UnixSite(runner, str(self.socket)).start()
                self._ready.set()
                await end.wait()
                await stages.drain(10)
                await runner.cleanup()
                service.close()
                stages.close()
        client.close()


def test_the_document_is_valid_openapi() -> None:
    described = json.loads(json.dumps(document(ROUTES)))
    validate(described)
    operations = [operation for item in described["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(ROUTES)
    assert all(operation["summary"] for operation in operations)


def asked(served: Served, contract: Contract, method: str, path: str, body: bytes | None = None, query: str = "") -> int:
    """Status of what was answered, which is what the document says."""
    connection = UnixConnection(served.socket)
    try:
        connection.request(method, path + query, body=body)
        response = connection.getresponse()
        if response.status < 300 and response.getheader("Content-Type") == "application/x-ndjson":
            return response.status
        return contract.judge(method, path, response, response.read()).status
    finally:
        connection.close()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = ["ref", "include", "exclude", "priority", "keep", "kind", "ttl_s", "note", "path", "artifact", "offset", "mount", ""]
_BODY = (
    st.binary(max_size=300)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=5).map(lambda value: json.dumps(value).encode())
    | st.text().map(lambda text: json.dumps({"ref": f"sha256:{text}"}).encode())
    | st.text().map(lambda text: json.dumps({"ref": f"file:///no/such/{text}"}).encode())
)
_POSTS = [route.path for route in ROUTES if route.method == "POST" and route.takes is not None and "sockets" not in route.path]
_GETS = [(route.method, route.path) for route in ROUTES if route.method != "POST" and route.stream is None]
_FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def test_any_body_is_a_request_or_a_problem_of_the_clients(tmp_path: Path) -> None:
    contract = Contract(document(ROUTES))

    @_FUZZ
    @given(path=st.sampled_from(_POSTS), body=_BODY)
    def check(path: str, body: bytes) -> None:
        assert asked(served, contract, "POST", path, body) not in (500, 501, 502)

    with Served(tmp_path / "store") as served:
        check()


def test_any_query_and_path_is_a_request_or_a_problem_of_the_clients(tmp_path: Path) -> None:
    contract = Contract(document(ROUTES))

    @_FUZZ
    @given(
        route=st.sampled_from(_GETS),
        query=st.lists(st.tuples(st.sampled_from(_FIELDS), st.text() | st.binary()), max_size=4),
        part=st.text(min_size=1, max_size=60),
    )
    def check(route: tuple[str, str], query: list[tuple[str, str | bytes]], part: str) -> None:
        method, path = route
        quoted = urllib.parse.quote(part.encode(errors="surrogatepass"), safe="")
        for name in ("{id}", "{artifact}", "{hold}"):
            path = path.replace(name, quoted if quoted.strip(".") else "x")
        pairs = [(name, value.encode(errors="surrogatepass") if isinstance(value, str) else value) for name, value in query]
        assert asked(served, contract, method, path, query=f"?{urllib.parse.urlencode(pairs)}") not in (500, 501, 502)

    with Served(tmp_path / "store") as served:
        check()


def test_any_bytes_at_all_leave_it_serving(tmp_path: Path) -> None:
    @_FUZZ
    @given(st.binary(max_size=400) | st.binary(max_size=200).map(lambda raw: b"GET /v1/resolve?" + raw + b" HTTP/1.1\r\n\r\n"))
    def check(raw: bytes) -> None:
        assert b" 500 " not in all_that_is_said_to(served, raw).partition(b"\r\n")[0]

    with Served(tmp_path / "store") as served:
        check()


def all_that_is_said_to(served: Served, raw: bytes) -> bytes:
    with sockets.socket(sockets.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(served.socket))
        sock.sendall(raw + b"\r\n\r\n")
        sock.shutdown(sockets.SHUT_WR)
        said = b""
        while part := sock.recv(1 << 16):
            said += part
    return said
