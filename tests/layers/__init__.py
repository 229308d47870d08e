"""Container images made here, byte by byte: layers with all that layers can hold, in every compression, pushed to a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

OCI = "application/vnd.oci.image"
MANIFEST, INDEX = f"{OCI}.manifest.v1+json", f"{OCI}.index.v1+json"
_LAYER = f"{OCI}.layer.v1.tar"
_DRAW_BYTES = 1 << 26


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Tar:
    """A layer being written: entries in their order, times fixed."""

    def __init__(self) -> None:
        self._raw = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._raw, mode="w", format=tarfile.PAX_FORMAT)

    def file(self, name: str, data: bytes = b"", *, mode: int = 0o644, xattrs: Mapping[str, str] | None = None) -> Tar:
        entry = self._entry(name, tarfile.REGTYPE, mode)
        entry.size = len(data)
        entry.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
        self._tar.addfile(entry, io.BytesIO(data))
        return self

    def folder(self, name: str, *, mode: int = 0o755) -> Tar:
        self._tar.addfile(self._entry(name, tarfile.DIRTYPE, mode))
        return self

    def link(self, name: str, target: str, *, hard: bool = False) -> Tar:
        entry = self._entry(name, tarfile.LNKTYPE if hard else tarfile.SYMTYPE, 0o777)
        entry.linkname = target
        self._tar.addfile(entry)
        return self

    def special(self, name: str, kind: bytes, *, major: int = 0, minor: int = 0) -> Tar:
        entry = self._entry(name, kind, 0o666)
        entry.devmajor, entry.devminor = major, minor
        self._tar.addfile(entry)
        return self

    def end(self) -> bytes:
        self._tar.close()
        return self._raw.getvalue()

    def _entry(self, name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.mtime = kind, mode, 1_700_000_000
        return entry


@dataclass(frozen=True)
class Made:
    """An image: its manifest (or index) and every blob below it, manifests included."""

    top: bytes
    media_type: str
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    manifests: Mapping[str, bytes] = field(default_factory=dict)
    layers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return sha256(self.top)

    @property
    def layer_bytes(self) -> int:
        return sum(len(self.blobs[digest]) for digest in set(self.layers))


def image(layers: Sequence[tuple[bytes, str]], *, architecture: str = "amd64", diff_ids: Sequence[str] | None = None) -> Made:
    """Of tars and how each is compressed: `gzip`, `zstd`, `none`. `diff_ids`: other ones than they have."""
    blobs: dict[str, bytes] = {}
    rows = []
    for tar, kind in layers:
        packed, suffix = _packed(tar, kind)
        blobs[sha256(packed)] = packed
        rows.append({"mediaType": f"{_LAYER}{suffix}", "digest": sha256(packed), "size": len(packed)})
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids or [sha256(tar) for tar, _ in layers])},
        }
    ).encode()
    blobs[sha256(config)] = config
    stated = {"mediaType": f"{OCI}.config.v1+json", "digest": sha256(config), "size": len(config)}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": stated, "layers": rows}).encode()
    return Made(manifest, MANIFEST, blobs, layers=tuple(str(row["digest"]) for row in rows))


def index(images: Mapping[str, Made], *, this: str = "amd64") -> Made:
    """Of images by architecture, and an attestation as builders add it; `layers` are those of `this`."""
    rows: list[dict[str, object]] = []
    for architecture, one in images.items():
        platform = {"os": "linux", "architecture": architecture}
        rows.append({"mediaType": MANIFEST, "digest": one.digest, "size": len(one.top), "platform": platform})
    attestation = image([(Tar().file("attestation").end(), "gzip")], architecture="unknown")
    unknown = {"os": "unknown", "architecture": "unknown"}
    rows.append({"mediaType": MANIFEST, "digest": attestation.digest, "size": len(attestation.top), "platform": unknown})
    top = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": rows}).encode()
    every = [*images.values(), attestation]
    blobs = {digest: data for one in every for digest, data in one.blobs.items()}
    return Made(top, INDEX, blobs, {one.digest: one.top for one in every}, images[this].layers)


def simple(*, layers: int = 3, size_bytes: int = 200_000, seed: int = 1, kind: str = "gzip") -> Made:
    """Of so many layers of random bytes."""
    draw = random.Random(seed)
    tars = [Tar().folder("data").file(f"data/{number}", _drawn(draw, size_bytes)).end() for number in range(layers)]
    return image([(tar, kind) for tar in tars])


def _drawn(draw: random.Random, size_bytes: int) -> bytes:
    """`randbytes` ends at 256 MiB."""
    return b"".join(draw.randbytes(min(_DRAW_BYTES, size_bytes - at)) for at in range(0, size_bytes, _DRAW_BYTES))


def curious() -> list[bytes]:
    """Twelve layers with whiteouts, opaque folders, hard links, xattrs, devices, changes of kind; one, empty, twice."""
    base = (
        Tar().folder("t").folder("t/a").folder("t/b").folder("t/opaque").folder("t/becomes-file").file("t/becomes-file/x", b"x")
    )
    for number in range(8):
        base.file(f"t/a/f{number}", bytes([number]) * (1000 + number)).file(f"t/opaque/o{number}", b"old")
    base.file("t/b/setuid", b"#!", mode=0o4755).link("t/b/symbolic", "../a/f1").link("t/b/hard", "t/a/f2", hard=True)
    base.file("t/becomes-folder", b"file")
    special = Tar().file("t/with-xattr", b"abc", xattrs={"user.k": "v1"})
    special.special("t/null", tarfile.CHRTYPE, major=1, minor=3).special("t/fifo", tarfile.FIFOTYPE)
    empty = Tar().end()
    return [
        base.end(),
        Tar().file("t/a/.wh.f3").file("t/a/.wh.f4").end(),
        Tar().folder("t/opaque").file("t/opaque/.wh..wh..opq").file("t/opaque/new", b"new").end(),
        Tar().file("t/.wh.becomes-folder").folder("t/becomes-folder").file("t/becomes-folder/in", b"in").end(),
        Tar().file("t/a/f3", b"again").file("t/.wh.becomes-file").end(),
        Tar().file("t/becomes-file", b"a file now").end(),
        special.end(),
        Tar().file("t/" + "long/" * 30 + "name" * 20, b"l").file("t/ünïcode ☃", b"u").end(),
        empty,
        Tar().file("t/a/.wh.f5").file("t/a/f6", b"new").end(),
        empty,
        Tar().folder("t", mode=0o711).file("t/last", b"z" * 5000).end(),
    ]


def mixed() -> Made:
    """`curious`, in every compression in turn."""
    return image([(tar, ("gzip", "zstd", "none")[number % 3]) for number, tar in enumerate(curious())])


def _packed(tar: bytes, kind: str) -> tuple[bytes, str]:
    if kind == "gzip":
        return gzip.compress(tar, 1, mtime=0), "+gzip"
    return (_stored_as_zstd(tar), "+zstd") if kind == "zstd" else (tar, "")


def _stored_as_zstd(data: bytes) -> bytes:
    """A frame of raw blocks (RFC 8878, 3.1.1): what any decoder reads, without a library to write it."""
    frame = bytearray(b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little"))
    blocks = [data[at : at + (1 << 16)] for at in range(0, len(data), 1 << 16)] or [b""]
    for number, block in enumerate(blocks):
        frame += (len(block) << 3 | (number == len(blocks) - 1)).to_bytes(3, "little") + block
    return bytes(frame)
