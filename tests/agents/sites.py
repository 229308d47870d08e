"""One model at each kind of origin, as an agent's clients ask for it, behind a server that makes the answers wrong on demand.

    with places(folder, versitygw) as there, Agent(folder / "store", env=there.environ) as agent:
        site = there.site("s3", data)          # http, s3, hub: another object, bucket key or repository each time
        site.server.faults += [Reset()] * 3    # on the GETs of its bytes
        agent.stage(site.ref)

`http` is served by servers.hostile itself. `s3` is a real versitygw, `hub` the test hub and its CDN, each behind a relay: what
is asked of them can be answered wrong.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.transfer.checksums import algorithm
from servers.answers import Request
from servers.faults import Fault
from servers.hostile import Hostile
from servers.hub import Hub
from servers.relay import Relay
from servers.versitygw import Versitygw

FILE = "model.safetensors"
TOKEN = "hf_of_the_agent"
BUCKET = "sites"


@dataclass(frozen=True, slots=True)
class Site:
    """See the module."""

    kind: str
    ref: str
    """Whose artifact is one file, FILE."""
    stated: Callable[[bytes], str]
    """The ref by which the digest of these bytes is known before they come."""
    server: Hostile
    """Where its bytes come from."""
    api: Hostile
    """Where it is looked up; the same but for a hub."""
    put: Callable[[bytes], None]
    """Another version from now on."""
    digest: Callable[[bytes], str]
    """How an error names bytes that are not what the origin stated."""

    def data_gets(self) -> list[Request]:
        """Who asked for bytes, in order."""
        return [request for request in self.server.gets() if self.server.is_data(request)]

    def on_data(self, fault: Fault) -> None:
        """From now on, on each request for bytes."""
        self.server.choose = lambda request: fault if self.server.is_data(request) else None


class Places:
    """The three servers. Made by `places`."""

    def __init__(self, http: Hostile, hub: tuple[Hub, Relay, Relay], s3: tuple[Versitygw, Relay] | None) -> None:
        self._http, self._s3 = http, s3
        self._hub, self._hub_api, self._cdn = hub
        self._names = itertools.count()

    @property
    def environ(self) -> Mapping[str, str]:
        """An agent's, to find them."""
        environ = {"HF_ENDPOINT": self._hub.endpoint, "HF_TOKEN": TOKEN}
        if self._s3 is not None:
            versitygw, relay = self._s3
            environ |= {**versitygw.environment, "AWS_ENDPOINT_URL": relay.url("")}
        return environ

    def site(self, kind: str, data: bytes) -> Site:
        """A model of its own, the servers as they should be."""
        self.reset()
        name = f"m{next(self._names)}"
        site = {"http": self._on_http, "s3": self._on_s3, "hub": self._on_hub}[kind](name)
        site.put(data)
        return site

    def reset(self) -> None:
        """Nobody is connected any more."""
        for server in (self._http, self._hub_api, self._cdn, *((self._s3[1],) if self._s3 is not None else ())):
            server.reset()

    def gate(self, site: Site) -> None:
        """Its repository asks for another token."""
        (self._hub.root / site.ref.removeprefix("hf://").removesuffix("@main") / ".hub.json").write_text(
            json.dumps({"gated": True, "tokens": ["hf_x"]})
        )
        self._hub.reload()

    def _on_http(self, name: str) -> Site:
        path = f"/{name}/{FILE}"
        url = self._http.url(path)

        def stated(now: bytes) -> str:
            return f"{url}#sha256={_sha256(now)}"

        return Site("http", url, stated, self._http, self._http, lambda now: self._http.put(path, now), _sha256)

    def _on_s3(self, name: str) -> Site:
        assert self._s3 is not None
        versitygw, relay = self._s3
        ref = f"s3://{BUCKET}/{name}/"

        def put(now: bytes) -> None:
            client = versitygw.client()
            client.put_object(Bucket=BUCKET, Key=f"{name}/{FILE}", Body=now, ChecksumAlgorithm="CRC64NVME")
            client.close()

        return Site("s3", ref, lambda _: ref, relay, relay, put, _crc64nvme)

    def _on_hub(self, name: str) -> Site:
        ref = f"hf://org/{name}@main"
        folder = self._hub.root / "org" / name
        folder.mkdir(parents=True)

        def put(now: bytes) -> None:
            (folder / FILE).write_bytes(now)
            self._hub.reload()

        return Site("hub", ref, lambda _: ref, self._cdn, self._hub_api, put, _sha256)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _crc64nvme(data: bytes) -> str:
    return f"crc64nvme:{algorithm('crc64nvme').update(data, 0):016x}"


@contextmanager
def places(folder: Path, versitygw: Versitygw | None) -> Iterator[Places]:
    """All three; without a versitygw there is no s3."""
    with ExitStack() as open_ones:
        http = open_ones.enter_context(Hostile())
        (folder / "hub").mkdir()
        hub = open_ones.enter_context(Hub(folder / "hub"))
        api, cdn = (open_ones.enter_context(Relay(int(url.rpartition(":")[2]))) for url in (hub.endpoint, hub.cdn))
        hub.endpoint, hub.cdn = api.url(""), cdn.url("")
        s3 = None
        if versitygw is not None:
            client = versitygw.client()
            client.create_bucket(Bucket=BUCKET)
            client.close()
            relay = Relay(versitygw.port, is_data=lambda request: request.path.endswith(FILE))
            s3 = versitygw, open_ones.enter_context(relay)
        yield Places(http, (hub, api, cdn), s3)
