"""A model offered by each kind of origin: what the tests of origins resolve, read, change and take away."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.manifest import FileEntry, Manifest
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Origin, Selection
from prestage.cacher.origins.retry import RetryRules
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.refs import parse_ref
from servers.hub import Hub
from servers.versitygw import Versitygw

WEIGHTS = random.Random(7).randbytes(300_007)
MODEL: dict[str, bytes] = {
    "config.json": b'{"model_type": "tiny"}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "sub dir/caf\u00e9 100%+&.txt": b"names survive\n" * 50,
}


def _nothing() -> None:
    return None


@dataclass
class Offer:
    """A model at an origin. `put` writes a file there, `gone` names what is not there."""

    ref: str
    files: dict[str, bytes]
    put: Callable[[str, bytes], None]
    gone: str
    environ: Mapping[str, str] = field(default_factory=dict)
    ca: Path | None = None
    announce: Callable[[], None] = _nothing

    def client(self) -> HttpClient:
        return HttpClient(NetConfig(ca_bundle=self.ca))

    def origin(self, client: HttpClient, ref: str | None = None) -> Origin:
        """Metadata calls here fail within seconds, whatever happens."""
        environ = {"HOME": "/nonexistent", **os.environ, **self.environ}
        return open_origin(
            parse_ref(ref or self.ref), client=client, environ=environ, rules=RetryRules(budget_s=5, unreachable_s=1)
        )

    def change(self, path: str, content: bytes) -> None:
        self.files[path] = content
        self.put(path, content)
        self.announce()


@dataclass
class Reader:
    """Resolves and reads through the engine's own source."""

    origin: Origin
    client: HttpClient
    manifest: Manifest

    def read(self, file: FileEntry, start: int = 0, stop: int | None = None) -> bytes:
        """The range as the engine would take it: from a source that checks every answer."""
        stop = file.size_bytes if stop is None else stop
        stream = OriginSource(self.origin, self.client, self.manifest, file, "lane").open(start, stop)
        try:
            buffer = memoryview(bytearray(stop - start))
            count = stream.readinto(buffer)
        finally:
            stream.close()
        return bytes(buffer[:count])


def reader(offer: Offer, client: HttpClient, selection: Selection | None = None, ref: str | None = None) -> Reader:
    origin = offer.origin(client, ref)
    return Reader(origin, client, origin.resolve(selection or Selection()))


def put_object(server: Versitygw, bucket: str, key: str, content: bytes) -> None:
    client = server.client()
    try:
        client.put_object(Bucket=bucket, Key=key, Body=content)
    finally:
        client.close()


def make_bucket(server: Versitygw, bucket: str) -> None:
    client = server.client()
    try:
        client.create_bucket(Bucket=bucket)
    finally:
        client.close()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def repository(hub: Hub, name: str, files: Mapping[str, bytes], **settings: object) -> None:
    """A repository in the hub's folder; the hub reads it at the next reload."""
    folder = hub.root / name
    for path, content in files.items():
        write(folder / path, content)
    write(folder / ".hub.json", json.dumps(settings).encode())
    hub.reload()
