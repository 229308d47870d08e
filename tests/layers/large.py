"""One layer of 5 GB: staged through the socket and in place, with how much memory that took, and held against a pull of it.

    PYTHONPATH=tests python -m layers.large FOLDER [GB] [socket | in-place]

FOLDER keeps the registry: the second time nothing is made. Three times the layer is written there at most. Needs root,
containerd and docker-registry; minutes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from layers import MANIFEST, OCI, Made, sha256
from layers.node import Node, grpc_kept
from servers.containerd import Containerd
from servers.registry import Registry

GB = 1_000_000_000
WAYS: dict[str, tuple[str, ...]] = {"socket": (), "in-place": ("--in-place",)}
PULL_S = 900.0
FILE_BYTES = 500_000_000
_DRAW_BYTES = 1 << 26
_REPOSITORY, _TAG = "large/app", "v1"


class Gzipped(RawIOBase):
    """A tar that is written, into a file of stored blocks, as gzip leaves random bytes; its digest and its diff ID."""

    def __init__(self, path: Path) -> None:
        self._file, self._packer = path.open("wb"), zlib.compressobj(0, wbits=31)
        self._packed, self._tar, self.size_bytes = hashlib.sha256(), hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # of a tarfile: bytes
        self._tar.update(data)
        self._put(self._packer.compress(data))
        return len(data)

    def end(self) -> tuple[str, str]:
        self._put(self._packer.flush())
        self._file.close()
        return f"sha256:{self._packed.hexdigest()}", f"sha256:{self._tar.hexdigest()}"

    def _put(self, data: bytes) -> None:
        self._packed.update(data)
        self.size_bytes += self._file.write(data)


class Drawn(RawIOBase):
    """Random bytes, the same ones again and again."""

    def __init__(self, block: bytes, start: int) -> None:
        self._block, self._at = block, start

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        begin = self._at % (len(self._block) // 2)
        data = self._block[begin : begin + min(size, len(self._block) // 2)]
        self._at += len(data)
        return data


def made(registry: Registry, size_bytes: int) -> None:
    """The image, its layer put where the registry keeps it: no copy of it is ever in memory."""
    storage = registry.folder / "data/docker/registry/v2"
    storage.mkdir(parents=True, exist_ok=True)
    packed = Gzipped(storage / "layer")
    block = os.urandom(_DRAW_BYTES)
    with tarfile.open(fileobj=packed, mode="w|", bufsize=1 << 20) as tar:
        for number in range(size_bytes // FILE_BYTES):
            entry = tarfile.TarInfo(f"data/{number}")
            entry.size, entry.mtime = FILE_BYTES, 1_700_000_000
            tar.addfile(entry, Drawn(block, number * 4099))
    digest, diff_id = packed.end()
    hexed = digest.partition(":")[2]
    place = storage / "blobs/sha256" / hexed[:2] / hexed
    place.mkdir(parents=True)
    (storage / "layer").rename(place / "data")
    link = storage / "repositories" / _REPOSITORY / "_layers/sha256" / hexed / "link"
    link.parent.mkdir(parents=True)
    link.write_text(digest)
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    stated = {"mediaType": f"{OCI}.config.v1+json", "digest": sha256(config), "size": len(config)}
    layer = {"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": digest, "size": packed.size_bytes}
    top = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": stated, "layers": [layer]}).encode()
    registry.push(_REPOSITORY, _TAG, Made(top, MANIFEST, {sha256(config): config}, layers=(digest,)))


def tree(containerd: Containerd) -> str:
    """A digest over the names, modes, sizes and bytes in its snapshots."""
    found = hashlib.sha256()
    for path in sorted((containerd.root / "io.containerd.snapshotter.v1.overlayfs/snapshots").glob("*/fs/**/*")):
        seen = path.lstat()
        found.update(f"{path.parts[-2:]} {seen.st_mode:o} {seen.st_size if path.is_file() else 0}\n".encode())
        if path.is_file():
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


@dataclass
class Staged:
    """One staging, as a process of its own did it."""

    seconds: float
    peak_bytes: int
    steps: list[int]
    """Unpacked bytes between two lines of progress."""


def staged(name: str, containerd: Containerd, *ways: str) -> Staged:
    argv = [sys.executable, "-m", "prestage.cacher.cli", "images", "stage", f"oci://{name}", "--json", "--high-water", "100"]
    begun = time.monotonic()
    with subprocess.Popen([*argv, "--containerd", str(containerd.socket), *ways], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, events[-1:]
    unpacked = sorted({event["unpacked"] for event in events if event["event"] == "progress"} | {0})
    steps = [after - before for before, after in itertools.pairwise(unpacked)]
    return Staged(time.monotonic() - begun, usage.ru_maxrss * 1024, steps)


def timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def lines(node: Node, registry: Registry, size_bytes: int, ways: Sequence[str]) -> Iterator[str]:
    containerd, name = node.containerd, f"{registry.host}/{_REPOSITORY}:{_TAG}"
    yield f"pull: {timed(lambda: node.pull(name, timeout_s=PULL_S)):.1f} s"
    pulled = tree(containerd)
    node.clean()
    for way in ways:
        one = staged(name, containerd, *WAYS[way])
        same = "the same tree" if tree(containerd) == pulled else "ANOTHER TREE"
        asked = len(registry.asked(client="containerd"))
        found = timed(lambda: node.pull(name, timeout_s=PULL_S))
        requests = len(registry.asked(client="containerd")) - asked
        most = max(one.steps) / size_bytes
        yield (
            f"staged ({way}): {one.seconds:.1f} s, at most {one.peak_bytes / 1e6:.0f} MB of memory, {len(one.steps)} steps of"
            f" unpacking, the longest {most:.1%}; {same}; a pull then {found:.2f} s, {requests} requests"
        )
        node.clean()
        yield f"  left behind: {containerd.used_bytes()} bytes"


def main(folder: Path, size_bytes: int, ways: Sequence[str]) -> None:
    is_new = not (folder / "data/docker/registry/v2/repositories" / _REPOSITORY / "_manifests/tags" / _TAG).exists()
    with Registry(folder) as registry:
        if is_new:
            made(registry, size_bytes)
        with tempfile.TemporaryDirectory(prefix="ctrd-", dir=folder) as short, grpc_kept(), Containerd(Path(short)) as containerd:
            for line in lines(Node(containerd), registry, size_bytes, ways):
                print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(float(sys.argv[2]) * GB) if len(sys.argv) > 2 else 5 * GB, sys.argv[3:] or list(WAYS))
