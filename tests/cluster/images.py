"""One-layer images as OCI layout tars, for `ctr images import`: the machine's static busybox with its links, and given files.

Nothing is downloaded, and no builder is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def write(path: Path, name: str, argv: Sequence[str], files: Mapping[str, bytes] | None = None) -> Path:
    """An image that runs `argv`; `name` is the full reference under which it is imported. Returns `path`."""
    layer = path.with_name(path.name + ".layer")
    layer.write_bytes(_layer(files or {}))
    try:
        return write_layers(path, name, argv, [layer])
    finally:
        layer.unlink()


def write_layers(
    path: Path, name: str, argv: Sequence[str], layers: Sequence[Path], env: Sequence[str] = ("PATH=/bin",), user: str = ""
) -> Path:
    """The same of layers that are there as tar files, lowest first. Not compressed: nobody sends it anywhere."""
    blobs: dict[str, bytes] = {}

    def put(data: bytes, media: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    digests = {layer: _sha256(layer) for layer in layers}
    config = {
        "architecture": _MACHINES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": list(argv), "Env": list(env), "User": user},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests.values()]},
    }
    plain = "application/vnd.oci.image.layer.v1.tar"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [
            {"mediaType": plain, "digest": f"sha256:{digest}", "size": layer.stat().st_size} for layer, digest in digests.items()
        ],
    }
    top = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    tag = name.rpartition(":")[2]
    top["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o644)
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode(), 0o644)
        for digest, data in blobs.items():
            _add(tar, f"blobs/sha256/{digest}", data, 0o644)
        for layer, digest in digests.items():
            entry = tarfile.TarInfo(f"blobs/sha256/{digest}")
            entry.size, entry.mode = layer.stat().st_size, 0o644
            with layer.open("rb") as packed:
                tar.addfile(entry, packed)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _layer(files: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for folder in ("bin", "etc", "proc", "sys", "dev", "mnt"):
            _add_entry(tar, folder, tarfile.DIRTYPE, mode=0o755)
        _add_entry(tar, "tmp", tarfile.DIRTYPE, mode=0o1777)
        _add(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True, timeout=30).stdout.split()
        for applet in applets:
            if applet != "busybox":
                _add_entry(tar, f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        for name, data in files.items():
            _add(tar, name, data, 0o755)
    return raw.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _add_entry(tar: tarfile.TarFile, name: str, kind: bytes, *, mode: int = 0o755, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, link
    tar.addfile(entry)
