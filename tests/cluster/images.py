"""One-layer images as OCI layout tars, for `ctr images import`: the machine's static busybox with its links, and given files.

Nothing is downloaded, and no builder is needed.
"""

from __future__ import annotations

import gzip
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
    layer = _layer(files or {})
    blobs: dict[str, bytes] = {}

    def put(data: bytes, media: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    config = {
        "architecture": _MACHINES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": list(argv), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    packed = put(gzip.compress(layer, 1, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [packed],
    }
    top = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    tag = name.rpartition(":")[2]
    top["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o644)
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode(), 0o644)
        for digest, data in blobs.items():
            _add(tar, f"blobs/sha256/{digest}", data, 0o644)
    return path


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
