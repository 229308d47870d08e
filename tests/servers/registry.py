"""docker-registry: a real registry over a folder, open, with passwords or with tokens; its own log says what was asked of it.

Registry(folder)                        open
Registry(folder, password=True)         Basic: USER and PASSWORD
Registry(folder, tokens=True)           Bearer, by a small token server that knows the same user
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from layers import Made, sha256

from servers.certs import Authority
from servers.programs import Program, free_port

USER, PASSWORD = "bob", "s3cret"
_HASHED = "$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK"
_LINE = re.compile(r'"(GET|HEAD) (/v2/\S*) HTTP/1.1" ([0-9]{3}) ([0-9]+) "[^"]*" "([^"]*)"')


@dataclass(frozen=True)
class Asked:
    """One request for something of a repository, as the registry logged it."""

    method: str
    path: str
    status: int
    bytes: int
    client: str

    @property
    def is_blob(self) -> bool:
        return "/blobs/" in self.path


class Registry:
    """`host` is what stands in an image's name. Ended by `close`."""

    def __init__(
        self,
        folder: Path,
        *,
        password: bool = False,
        tokens: bool = False,
        authority: Authority | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        name = "localhost" if authority else address
        self.host, self._tls = f"{name}:{self.port}", authority
        self.login = (USER, PASSWORD) if password or tokens else None
        self.issuer = TokenServer(folder) if tokens else None
        self._log = folder / "registry.log"
        self._settled = 0
        settings: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(folder / "data")},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": f"{address}:{self.port}", "secret": "of-a-test", **_tls(authority)},
        }
        if password:
            (folder / "htpasswd").write_text(f"{USER}:{_HASHED}\n")
            settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
        if self.issuer is not None:
            settings["auth"] = {"token": self.issuer.settings}
        (folder / "registry.yml").write_text(json.dumps(settings))
        argv: list[str | Path] = ["docker-registry", "serve", folder / "registry.yml"]
        self.program = Program(argv, port=self.port, log=self._log, host=address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.program.close()
        if self.issuer is not None:
            self.issuer.close()

    def push(self, repository: str, tag: str, made: Made) -> str:
        """Its name, with the tag."""
        for data in made.blobs.values():
            self._push_blob(repository, data)
        for digest, manifest in made.manifests.items():
            self._send("PUT", f"/v2/{repository}/manifests/{digest}", manifest, "application/vnd.oci.image.manifest.v1+json")
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", made.top, made.media_type)
        return f"{self.host}/{repository}:{tag}"

    def asked(self, *, client: str = "") -> Sequence[Asked]:
        """What was asked of repositories so far, by clients whose User-Agent begins so; refusals (401) left out."""
        self._settle()
        found = [
            Asked(method, path, int(status), int(count), agent)
            for method, path, status, count, agent in _LINE.findall(self._log.read_text(errors="replace"))
        ]
        return [one for one in found if not one.path.startswith("/v2/?") and one.status != 401 and one.client.startswith(client)]

    def _settle(self) -> None:
        """Until the log has a request of ours: then it has those before it."""
        self._settled += 1
        mark = f"/v2/?settled={self._settled}"
        context = self._tls.client_context() if self._tls else None
        with suppress(urllib.error.HTTPError):  # 401: it is logged all the same
            urllib.request.urlopen(f"{'https' if self._tls else 'http'}://{self.host}{mark}", timeout=10, context=context).close()
        deadline_s = time.monotonic() + 10
        while f"{mark} " not in self._log.read_text(errors="replace"):
            assert time.monotonic() < deadline_s, "the registry logs nothing"
            time.sleep(0.01)

    def _push_blob(self, repository: str, data: bytes) -> None:
        where = self._send("POST", f"/v2/{repository}/blobs/uploads/", b"")
        sign = "&" if "?" in where else "?"
        self._send("PUT", f"{where}{sign}digest={sha256(data)}", data, "application/octet-stream")

    def _send(self, method: str, path: str, data: bytes, media_type: str | None = None) -> str:
        scheme = "https" if self._tls else "http"
        url = path if path.startswith("http") else f"{scheme}://{self.host}{path}"
        request = urllib.request.Request(url, data=data, method=method)
        if media_type:
            request.add_header("Content-Type", media_type)
        if self.issuer is not None:
            repository = urllib.parse.urlsplit(url).path.removeprefix("/v2/").partition("/blobs/")[0].partition("/manifests/")[0]
            request.add_header("Authorization", f"Bearer {self.issuer.token(f'repository:{repository}:pull,push')}")
        elif self.login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(':'.join(self.login).encode()).decode()}")
        context = self._tls.client_context() if self._tls else None
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return str(answer.headers.get("Location", ""))


def _tls(authority: Authority | None) -> dict[str, object]:
    return {"tls": {"certificate": str(authority.certificate), "key": str(authority.key)}} if authority else {}


class TokenServer:
    """Gives tokens for pulling to whoever logs in as USER, none to others; `asked` counts."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "issuer")
        key = load_pem_private_key(authority.key.read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        self._key = key
        self._chain = [
            base64.b64encode(ssl.PEM_cert_to_DER_cert(text + "-----END CERTIFICATE-----\n")).decode()
            for text in authority.certificate.read_text().split("-----END CERTIFICATE-----\n")
            if "BEGIN" in text
        ]
        self.asked: list[str] = []
        self.life_s = 300
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="tokens")
        self._thread.start()
        realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        self.settings = {"realm": realm, "service": "tests", "issuer": "tests", "rootcertbundle": str(authority.ca)}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self, scope: str) -> str:
        """A JWT, as docker-registry reads it."""
        kind, name, actions = scope.split(":")
        now = int(time.time())
        claims = {
            "iss": "tests",
            "sub": USER,
            "aud": "tests",
            "nbf": now - 10,
            "iat": now,
            "exp": now + self.life_s,
            "jti": str(now),
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        header = {"alg": "ES256", "typ": "JWT", "x5c": self._chain}
        body = ".".join(_packed(json.dumps(part).encode()) for part in (header, claims))
        return f"{body}.{_packed(self._signed(body.encode()))}"

    def _signed(self, body: bytes) -> bytes:
        numbers = decode_dss_signature(self._key.sign(body, ECDSA(SHA256())))
        return b"".join(number.to_bytes(32, "big") for number in numbers)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self
        wanted = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                scope = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)).get("scope", "")
                issuer.asked.append(scope)
                is_known = self.headers.get("Authorization") == wanted
                body = json.dumps({"token": issuer.token(scope), "expires_in": issuer.life_s} if is_known else {}).encode()
                self.send_response(200 if is_known else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:  # containerd tries OAuth2 first; 404 makes it ask by GET
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        return Handler


def _packed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
