"""What the tests of adopting, archives and locks share: an adopter, Hugging Face caches made by hand, file systems."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stores.making import blob_of, records_of

from prestage.cacher.adopting import Adopter
from prestage.cacher.archives import layout
from prestage.cacher.digests import hex_of
from prestage.cacher.manifest import Manifest
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.config import NetConfig
from prestage.cacher.staging import Stager
from prestage.cacher.store.blobs import BlobMeta
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from servers.programs import find

HUB = "https://hub.test"
COMMIT = "c" * 40


@contextmanager
def staging(store: Store) -> Iterator[Stager]:
    """A stager with one connection: the calls to the disk come in a row."""
    client = HttpClient(NetConfig())
    try:
        with Engine(Limits(connections_start=1, connections_max=1)) as engine:
            yield Stager(store, engine, client)
    finally:
        client.close()


@contextmanager
def adopting(store: Store, endpoint: str = HUB) -> Iterator[Adopter]:
    with staging(store) as stager:
        yield Adopter(store, stager, endpoint)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archive_of(contents: Mapping[str, bytes], manifest: Manifest, ref: str = "", **instead: bytes) -> bytes:
    """An archive written by hand, by docs/format.md; `instead` replaces small members (`label`, `listing`, `binding`)."""
    binding = {path: blob_of(data) for path, data in contents.items()}
    out = b""
    small = {
        "archive.json": instead.get("label", layout.Label(manifest.artifact, ref).to_bytes()),
        "manifest.json": instead.get("listing", manifest.to_bytes()),
        "binding.json": instead.get("binding", layout.render_binding(manifest.artifact, binding)),
    }
    for name, data in small.items():
        out += layout.header(name, len(data)) + data + layout.padding(len(data))
    by_blob = {blob_of(contents[file.path]): contents[file.path] for file in manifest.files}
    for blob, data in by_blob.items():
        records = records_of(data)
        meta = BlobMeta(len(data), tuple(r.digest for r in records), b"".join(r.chunk_sums for r in records)).to_bytes()
        for name, body in ((f"{hex_of(blob)}.meta", meta), (hex_of(blob), data)):
            out += layout.header(name, len(body)) + body + layout.padding(len(body))
    return out + layout.END


@contextmanager
def descriptor_of(raw: bytes) -> Iterator[int]:
    """A file in memory, at its start."""
    fd = os.memfd_create("archive")
    try:
        os.write(fd, raw)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def etag(path: str, data: bytes) -> str:
    """As the hub names it: SHA-256 of what is in LFS, Git's SHA-1 of what is not."""
    if path.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def hub_cache(
    cache: Path,
    files: Mapping[str, bytes],
    *,
    commit: str = COMMIT,
    revision: str | None = "main",
    listed: Mapping[str, bytes] | None = None,
) -> Path:
    """`models--org--name` as huggingface_hub 2 leaves it; `listed`: what the hub's listing holds (none: no listing is kept)."""
    repository = cache / "models--org--name"
    for path, data in files.items():
        blob = write_folder(repository / "blobs", {etag(path, data): data}) / etag(path, data)
        link = repository / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if revision is not None:
        write_folder(repository / "refs", {revision: commit.encode()})
    if listed is not None:
        rows = {path: _row(path, data) for path, data in listed.items()}
        write_folder(repository / "trees", {f"{commit}.json": json.dumps({"format_version": 1, "files": rows}).encode()})
    return repository


def _row(path: str, data: bytes) -> dict[str, object]:
    lfs = {"lfs_sha256": etag(path, data), "lfs_size": len(data)} if path.endswith(".safetensors") else {}
    return {"size": len(data), "blob_id": etag(path, data) if not lfs else "0" * 40, **lfs}


@contextmanager
def mounted(kind: str, image: Path, mount: Path) -> Iterator[Path]:
    """A file system of `kind` on a loop device."""
    with image.open("wb") as file:
        file.truncate(400 << 20)
    make = find(f"mkfs.{kind}")
    assert make is not None, "a test that needs it says so"
    subprocess.run([make, "-q", str(image)], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)
