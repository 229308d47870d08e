"""toxiproxy: what a network does to a TCP stream that is otherwise right (latency, bandwidth, cuts, resets, slow closes).

with Toxiproxy(tmp) as toxiproxy:
    route = toxiproxy.route(nginx.port)
    toxic = route.add("bandwidth", rate=1000)      # KB/s; kinds and attributes are toxiproxy's
    fetch(f"http://127.0.0.1:{route.port}/f")
    route.remove(toxic)
    route.enabled(False)                           # refuses connections and drops those it has
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.request import ProxyHandler, Request, build_opener

from servers.programs import Program, free_port


class Route:
    """A port of `host` that leads to another one."""

    def __init__(self, api: Toxiproxy, name: str, port: int, host: str) -> None:
        self._api, self._host = api, host
        self._name = name
        self._toxics = 0
        self.port = port

    def url(self, path: str = "/") -> str:
        return f"http://{self._host}:{self.port}{path}"

    def add(
        self, kind: str, *, stream: Literal["downstream", "upstream"] = "downstream", toxicity: float = 1.0, **attributes: int
    ) -> str:
        """Add a toxic to new and existing connections; the answer names it. `toxicity`: share of connections, 0 to 1."""
        self._toxics += 1
        name = f"{kind}-{self._toxics}"
        toxic = {"name": name, "type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        self._api.call("POST", f"/proxies/{self._name}/toxics", toxic)
        return name

    def remove(self, toxic: str) -> None:
        self._api.call("DELETE", f"/proxies/{self._name}/toxics/{toxic}")

    def enabled(self, on: bool) -> None:
        self._api.call("POST", f"/proxies/{self._name}", {"enabled": on})


class Toxiproxy:
    """The server; `folder` takes its log."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._opener = build_opener(ProxyHandler({}))
        self._routes = 0
        argv = ["toxiproxy-server", "-host", "127.0.0.1", "-port", str(port)]
        self.program = Program(argv, port=port, log=folder / "toxiproxy.log", env={"LOG_LEVEL": "error"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def route(self, upstream_port: int, *, host: str = "127.0.0.1") -> Route:
        """A new route to `upstream_port`, without toxics; both on `host`."""
        self._routes += 1
        name, port = f"route-{self._routes}", free_port(host)
        addresses = {"listen": f"{host}:{port}", "upstream": f"{host}:{upstream_port}"}
        self.call("POST", "/proxies", {"name": name, "enabled": True, **addresses})
        return Route(self, name, port, host)

    def call(self, method: str, path: str, body: dict[str, object] | None = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data=data, method=method, headers={"User-Agent": "prestage-tests"})
        with self._opener.open(request, timeout=5) as answer:
            answer.read()

    def close(self) -> None:
        self.program.close()
