"""A real containerd with its CRI plugin, in a mount namespace of its own, everything of it below one folder. Needs root.

`kubelet` pulls as the kubelet does; the rest is what `prestage.images` talks to. Which one: `containerd-1` (1.7), where
`make containerd` built it, else `containerd` of the system, or another by PRESTAGE_CONTAINERD (a path); `containerd-2`, built
alike, where a test asks for it.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

from leaks import shared

from prestage.images.containerd.channel import Channel
from prestage.wire import cri_pb2 as cri
from prestage.wire.containerd_pb2 import SnapshotPrepareAnswer, SnapshotPrepareRequest, SnapshotRequest
from servers.programs import Program, find

_IMAGES = "/runtime.v1.ImageService"
_SNAPSHOTS = "/containerd.services.snapshots.v1.Snapshots"


class Row(NamedTuple):
    """One name in a layer. `first`: the first name of that file; `modified_ns` is 0 for folders and whiteouts."""

    name: str
    mode: int
    owner: tuple[int, int]
    device: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    first: str
    modified_ns: int

    @property
    def is_whiteout(self) -> bool:
        """As overlayfs writes one."""
        return stat.S_ISCHR(self.mode) and self.device == 0


class Containerd:
    """Ended by `close`."""

    def __init__(
        self, folder: Path, *, program: str = "containerd", discards_layers: bool = False, disk_bytes: int | None = None
    ) -> None:
        """`disk_bytes`: its root is a file system of its own, of that size."""
        self._name = program
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.socket = folder / "c.sock"
        self.root = folder / "root"
        self._config = folder / "config.toml"
        self._config.write_text(_CONFIG.format(folder=folder, discards=str(discards_layers).lower()))
        self._program: _Daemon | None = None
        self._has_disk = disk_bytes is not None
        if disk_bytes is not None:
            self.root.mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={disk_bytes}", "prestage-test", self.root], check=True, timeout=10
            )
        self.start()

    def __enter__(self) -> Containerd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._has_disk:
            subprocess.run(["umount", self.root], check=True, timeout=10)

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        argv: list[str | Path] = ["unshare", "--mount", "--propagation", "private", _found(self._name), "--config", self._config]
        self._program = _Daemon(argv, port=0, log=self.folder / "log", cwd=self.folder, host=str(self.socket))
        shared.add(self._program.pid)

    def close(self) -> None:
        if self._program is not None:
            shared.discard(self._program.pid)
            self._program.close()
            self._program = None

    def kill(self) -> None:
        """kill -9; nothing is started again."""
        os.kill(self.pid, signal.SIGKILL)
        self.close()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """It and what it started do nothing meanwhile."""
        assert self._program is not None
        self._program.pause()
        try:
            deadline_s = time.monotonic() + 10
            while _state_of(self.pid) != "T" and time.monotonic() < deadline_s:
                time.sleep(0.001)
            yield
        finally:
            self._program.resume()

    @property
    def pid(self) -> int:
        """While it runs."""
        assert self._program is not None
        return self._program.pid

    def kubelet(self) -> Kubelet:
        """Use it on one event loop."""
        return Kubelet(self.socket)

    def mounts(self) -> list[str]:
        """Mount points in its namespace."""
        return [line.split(" ")[4] for line in Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()]

    def used_bytes(self) -> int:
        """Of content and snapshots, by what lies there; directories and the databases left out."""
        folders = [self.root / "io.containerd.content.v1.content", self.root / "io.containerd.snapshotter.v1.overlayfs/snapshots"]
        return sum(
            path.lstat().st_size for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
        )


class _Daemon(Program):
    """Answers on a socket: its path stands where a host would."""

    def _await_port(self, host: str, port: int) -> None:
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s and self._process.poll() is None:
            if Path(host).is_socket() and "containerd successfully booted" in self._log.read_text(errors="replace"):
                return
            time.sleep(0.02)
        raise RuntimeError(f"containerd did not come up: {self._log.read_text(errors='replace')[-2000:]}")


class Kubelet:
    """The image service of the CRI, as the kubelet calls it."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def pull(self, name: str, login: tuple[str, str] | None = None, *, timeout_s: float = 60.0) -> str:
        """The image's ID. Raises what the channel makes of a refusal."""
        auth = cri.AuthConfig(username=login[0], password=login[1]) if login else None
        request = cri.PullImageRequest(image=cri.ImageSpec(image=name), auth=auth, sandbox_config=cri.PodSandboxConfig())
        async with self._channel() as channel:
            answer = await channel.call(f"{_IMAGES}/PullImage", request, cri.PullImageAnswer, timeout_s=timeout_s)
        return answer.image_ref

    async def images(self) -> Sequence[cri.Image]:
        async with self._channel() as channel:
            return (await channel.call(f"{_IMAGES}/ListImages", cri.ListImagesRequest(), cri.ListImagesAnswer)).images

    async def remove(self, name: str) -> None:
        async with self._channel() as channel:
            request = cri.RemoveImageRequest(image=cri.ImageSpec(image=name))
            await channel.call(f"{_IMAGES}/RemoveImage", request, cri.Empty)

    async def tree(self, chain: str) -> list[list[Row]]:
        """What lies in each layer of an unpacked image, topmost first: names, kinds, modes, owners, content, xattrs, whiteouts.
        Times of folders are left out: those that no entry sets are the moment of unpacking."""
        key = f"look-{time.time_ns()}"
        async with self._channel() as channel:
            request = SnapshotPrepareRequest(snapshotter="overlayfs", key=key, parent=chain)
            answer = await channel.call(f"{_SNAPSHOTS}/View", request, SnapshotPrepareAnswer)
            await channel.call(f"{_SNAPSHOTS}/Remove", SnapshotRequest(snapshotter="overlayfs", key=key), cri.Empty)
        (mount,) = answer.mounts
        lower = [option.removeprefix("lowerdir=") for option in mount.options if option.startswith("lowerdir=")]
        folders = lower[0].split(":") if lower else [mount.source]
        return [_listing(Path(folder)) for folder in folders]

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[Channel]:
        async with Channel(self._socket) as channel:
            yield channel


def _listing(folder: Path) -> list[Row]:
    rows: list[Row] = []
    links: dict[int, str] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        seen, name = path.lstat(), str(path.relative_to(folder))
        keys = sorted(os.listxattr(path, follow_symlinks=False))
        xattrs = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in keys)
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        first = links.setdefault(seen.st_ino, name) if seen.st_nlink > 1 and not path.is_dir() else name
        is_made_up = path.is_dir() or (stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0)
        modified_ns = 0 if is_made_up else seen.st_mtime_ns
        rows.append(Row(name, seen.st_mode, (seen.st_uid, seen.st_gid), seen.st_rdev, content, xattrs, first, modified_ns))
    return rows


def _found(name: str) -> str:
    if name != "containerd":
        return str(find(name))
    return os.environ.get("PRESTAGE_CONTAINERD") or str(find("containerd-1") or find("containerd"))


def _state_of(pid: int) -> str:
    """As `ps` shows it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def version(path: str | None = None) -> str:
    """What `containerd --version` says last but one."""
    found = path or str(find("containerd"))
    return subprocess.run([found, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout.split()[2]


_CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{folder}/cni"
    bin_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    discard_unpacked_layers = {discards}
"""
