"""The wires of a cluster: one veth into the caller's network namespace, a switch in a namespace of its own, a port for each node.

    caller (10.N.0.1 on ktN) ── switch namespace, bridge br0 ── node i (10.N.0.(10+i) on eth0) ── its pods (10.N.i.0/24 on cni0)

The interface name ktN is the lock between clusters. No namespace has a name: all of it goes with the processes in it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster.processes import Processes

_NUMBERS = range(200, 250)


def run(*argv: str | Path | int) -> str:
    """What it prints; raises CalledProcessError with what it says."""
    words = [str(word) for word in argv]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def inside(pid: int, *argv: str | Path) -> str:
    """The same in the network namespace of `pid`."""
    return run("nsenter", "-t", pid, "-n", *argv)


def own_namespace(processes: Processes, pid: int) -> None:
    """Return once `pid` has left our network namespace."""
    ours = Path("/proc/self/ns/net").readlink()
    processes.wait_for(lambda: Path(f"/proc/{pid}/ns/net").readlink() != ours, what="a network namespace")


class Network:
    """The caller's end and the switch. `processes` takes the program that keeps the switch."""

    def __init__(self, processes: Processes) -> None:
        self._switch = processes.start("switch", ["unshare", "--net", "sleep", "infinity"]).pid
        own_namespace(processes, self._switch)
        self.interface = self._take_interface()
        self.prefix = f"10.{self.interface.removeprefix('kt')}"
        self.ip = f"{self.prefix}.0.1"
        inside(self._switch, "sh", "-ec", "ip link add br0 type bridge; ip link set br0 up; ip link set uplink master br0 up")
        run("ip", "addr", "add", f"{self.ip}/24", "dev", self.interface)
        run("ip", "link", "set", self.interface, "up")

    def plug(self, number: int, pid: int, ip: str) -> None:
        """Give the node with first process `pid` an eth0 with `ip`. A port of one that was switched off may still be going."""
        port = f"p{number}"
        plugged = f"ip link add {port} type veth peer name eth0 netns {pid}; ip link set {port} master br0 up"
        inside(self._switch, "sh", "-ec", f"ip link del {port} 2>/dev/null || true; {plugged}")
        inside(pid, "sh", "-ec", f"ip link set lo up; ip addr add {ip}/24 dev eth0; ip link set eth0 up")

    def route(self, pods: str, via: str, others: Sequence[int]) -> None:
        """The caller and the nodes with first processes `others` reach `pods` by `via`."""
        run("ip", "route", "replace", pods, "via", via)
        for pid in others:
            inside(pid, "ip", "route", "add", pods, "via", via)

    def close(self) -> None:
        subprocess.run(["ip", "link", "del", self.interface], capture_output=True, timeout=60, check=False)

    def _take_interface(self) -> str:
        for number in _NUMBERS:
            name = f"kt{number}"
            argv = ["ip", "link", "add", name, "type", "veth", "peer", "name", "uplink", "netns", str(self._switch)]
            if subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0:
                return name
        raise RuntimeError("no free network: every name from kt200 to kt249 is taken")
