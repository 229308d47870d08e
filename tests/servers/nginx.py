"""nginx as a plain HTTP(S) origin: sendfile, two workers, ranges and ETags as in the wild."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from servers.certs import Authority
from servers.programs import Program, free_port

_CONFIG = """
daemon off;
worker_processes {workers};
pid {state}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log {state}/access.log combined;
    types {{ }}
    default_type application/octet-stream;
    sendfile on;
    sendfile_max_chunk 2m;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {state}/body;
    proxy_temp_path {state}/proxy;
    fastcgi_temp_path {state}/fastcgi;
    uwsgi_temp_path {state}/uwsgi;
    scgi_temp_path {state}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {tls}
        root {docroot};
        autoindex on;
        limit_rate {rate};
        {extra}
    }}
}}
"""


class Nginx:
    """Serves `docroot` at `url`, and at `tls_url` where an authority is given. `state` takes its configuration and logs.

    `rate_bytes_per_s` is nginx's limit_rate: for each connection, after a first second's worth at full speed; 0 for
    none. `extra` goes into the server block.
    """

    def __init__(
        self,
        docroot: Path,
        state: Path,
        *,
        authority: Authority | None = None,
        workers: int = 2,
        rate_bytes_per_s: int = 0,
        extra: str = "",
    ) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.docroot = docroot
        self.port = free_port()
        self.tls_port = free_port()
        self.access_log = state / "access.log"
        tls = ""
        if authority is not None:
            tls = f"listen 127.0.0.1:{self.tls_port} ssl; ssl_certificate {authority.certificate};"
            tls += f" ssl_certificate_key {authority.key};"
        config = state / "nginx.conf"
        text = _CONFIG.format(
            workers=workers,
            state=state,
            user="user root;" if os.geteuid() == 0 else "",  # else its workers could not read pytest's private folders
            port=self.port,
            tls=tls,
            docroot=docroot,
            rate=rate_bytes_per_s,
            extra=extra,
        )
        config.write_text(text)
        argv: list[str | Path] = ["nginx", "-e", "stderr", "-p", state, "-c", config]
        self.program = Program(argv, port=self.port, log=state / "nginx.log")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def tls_url(self, path: str = "/") -> str:
        return f"https://localhost:{self.tls_port}{path}"

    def close(self) -> None:
        self.program.close()
