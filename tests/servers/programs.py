"""Real programs that tests start: where they are found, how they start, and that they end.

Looks in `.tools/bin` of the checkout (made by `make tools`), then on PATH and in the sbin folders. A program is stopped
by its own handle, and killed after five seconds; its output is kept in a file and shown when it does not come up.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "bin"

SOURCES = {
    "versitygw": "a Go toolchain and `make tools`",
    "toxiproxy-server": "a Go toolchain and `make tools`",
    "csi-sanity": "a Go toolchain and `make tools`",
    "helm": "a Go toolchain and `make tools`",
    "kwok": "a Go toolchain and `make tools`",
    "kubeconform": "a Go toolchain and `make tools`",
    "nginx": "`apt-get install nginx-light`",
    "mkfs.xfs": "`apt-get install xfsprogs`",
    "mkfs.btrfs": "`apt-get install btrfs-progs`",
    "kubetest": "a Go toolchain and `make cluster` (7 minutes), or PRESTAGE_CLUSTER_BIN",
    "containerd": "`apt-get install containerd`",
    "containerd-2": "a Go toolchain and `make containerd` (4 minutes)",
    "docker-registry": "`apt-get install docker-registry`",
    "runc": "`apt-get install runc`",
    "busybox": "`apt-get install busybox-static`",
    "ip": "`apt-get install iproute2`",
}
_KUBERNETES = ("kubetest",)
_NODE = (*_KUBERNETES, "containerd", "runc", "busybox", "ip", "nsenter", "unshare", "root", "mount")
CNI = Path("/usr/lib/cni")


def _may_mount() -> bool:
    """CAP_SYS_ADMIN is bit 21 (linux/capability.h)."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(status["CapEff"], 16) >> 21 & 1)


_POWERS: dict[str, Callable[[], bool]] = {"root": lambda: os.geteuid() == 0, "mount": _may_mount}


def find(name: str) -> Path | None:
    """The program's path, None where this machine lacks it."""
    if name == "kubetest" and (given := os.environ.get("PRESTAGE_CLUSTER_BIN")):
        return Path(given) if os.access(given, os.X_OK) else None
    path = os.pathsep.join([str(_TOOLS), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def lacking(name: str) -> str | None:
    """Why `name` cannot be had here, None if it can.

    A program, one of the powers `root` and `mount`, `kubernetes` (an API server), or `kubernetes-node` (with kubelets).
    """
    if name in ("kubernetes", "kubernetes-node"):
        wanted = _KUBERNETES if name == "kubernetes" else _NODE
        if name == "kubernetes-node" and not (CNI / "bridge").exists():
            return "no CNI plugins: they come with `apt-get install containernetworking-plugins`"
        return next((reason for one in wanted if (reason := lacking(one))), None)
    if name in _POWERS:
        return None if _POWERS[name]() else f"this user lacks what it takes: {name}"
    return None if find(name) else f"{name} is not installed: it comes with {SOURCES.get(name, f'the package of {name}')}"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago, below the ephemeral range: neither a connection nor whoever listens on 0 takes it."""
    for _ in range(200):
        port = 20000 + secrets.randbelow(10000)  # not by `random`: hypothesis seeds that alike in all workers
        with (
            contextlib.suppress(OSError),
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET),
        ):
            return port
    raise RuntimeError("no free port between 20000 and 30000")


def until_stopped(pid: int) -> None:
    """A child that was sent SIGSTOP has stopped with all its threads, or ended: until then one of them may still answer."""
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


class Program:
    """A running program that answers on `port`. Raises RuntimeError with its last words if it does not within a minute."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        port: int,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        found = find(str(argv[0]))
        if found is None:
            raise RuntimeError(lacking(str(argv[0])))
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [found, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            self._await_port(host, port)
        except RuntimeError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End it, and what it started."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(5)

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        until_stopped(self.pid)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, number)  # its own session, hence its own group: workers included

    def _await_port(self, host: str, port: int) -> None:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex((host, port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self._process.args!r} did not come up: {self._log.read_text(errors='replace')[-2000:]}")
