"""One real node: kubelet and containerd in network, mount, pid and UTS namespaces of their own, with all default paths.

It is the whole node that is unshared: kubelet and runc must see one mount namespace. Killing its first process ends
containerd, shims, pods and every mount.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster import cgroups
from cluster.apiserver import ApiServer
from cluster.network import Network, own_namespace, run
from servers.programs import CNI

PAUSE = "localhost/kubetest/pause:1"
_INIT = Path(__file__).with_name("node.sh")


class Node:
    """`nodeN` of a cluster; started by `start`."""

    def __init__(self, number: int, api: ApiServer, network: Network) -> None:
        self.name, self._number, self._api, self._network = f"node{number}", number, api, network
        self.ip = f"{network.prefix}.0.{10 + number}"
        self.pods = f"{network.prefix}.{number}.0/24"
        self.folder = api.folder / self.name
        self.folder.mkdir()
        self.pid = 0

    def start(self, others: list[Node], *, pause: Path, kubelet: Mapping[str, object]) -> None:
        """Returns once containerd serves and the pause image is there; `ready` says when the node is."""
        cgroups.make(self._cgroup)
        self._write_settings(self._cgroup, kubelet)
        self._boot(others)
        self.import_image(pause)

    @property
    def _cgroup(self) -> str:
        return f"/{self._network.interface}/{self.name}"

    def reboot(self, *, between: Callable[[], None] = lambda: None) -> None:
        """Everything that ran or was mounted on it is gone, /var is still there. `between`: what happens while it is off."""
        self._api.processes.kill(self.name)
        self._api.processes.wait_for(lambda: not Path(f"/proc/{self.pid}").exists(), what="the node off")
        (self.folder / "containerd.log").write_text("")
        between()
        self._boot([])

    def _boot(self, others: list[Node]) -> None:
        processes = self._api.processes
        env = {"D": str(self.folder), "BIN": str(self._api.binary), "NODE": self.name, "NODE_IP": self.ip}
        argv = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", str(_INIT)]
        outer = processes.start(self.name, argv, stdin=subprocess.PIPE, env=env)
        own_namespace(processes, outer.pid)
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        self.pid = int(processes.wait_for(children.read_text, what="the node's first process"))
        for folder in cgroups.make(self._cgroup + "-system"):  # one everywhere, else the kubelet reads no statistics
            (folder / "cgroup.procs").write_text(str(self.pid))
        self._network.plug(self._number, self.pid, self.ip)
        self._network.route(self.pods, self.ip, [other.pid for other in others])
        for other in others:
            run(*self.enter("ip", "route", "add", other.pods, "via", other.ip))
        assert outer.stdin is not None
        outer.stdin.write(b"\n")
        outer.stdin.close()
        log = self.folder / "containerd.log"
        processes.wait_for(lambda: "serving..." in log.read_text(), what="containerd serving")

    def enter(self, *argv: str | Path) -> list[str]:
        """The argv that runs `argv` on the node (give absolute paths: it starts in /)."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", *map(str, argv)]

    def path(self, path: str) -> Path:
        """The caller's view of a path on the node."""
        return Path(f"/proc/{self.pid}/root{path}")

    def import_image(self, tar: Path) -> None:
        run(*self.enter(shutil.which("ctr") or "ctr", "-n", "k8s.io", "images", "import", tar))

    def mirror(self, registry: str, url: str) -> None:
        """Pulls for `registry` go to `url`; read at each pull. containerd 1.7 refuses a file without a [host] table."""
        folder = self.path(f"/etc/containerd/certs.d/{registry}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n')

    def kill(self, what: str) -> None:
        """kill -9 of `kubelet` or `containerd` only; it comes back by itself after half a second."""
        pid = (self.folder / f"{what}.pid").read_text().strip()
        run(*self.enter("kill", f"-{signal.SIGKILL.value}", pid))

    def ready(self) -> bool:
        """The API server's word for it."""
        return self._condition().get("status") == "True"

    def heartbeat(self) -> str:
        """When its kubelet last said so."""
        return self._condition().get("lastHeartbeatTime", "")

    def _condition(self) -> dict[str, str]:
        seen = self._api.ask(f"/api/v1/nodes/{self.name}")
        status = seen.get("status", {}) if isinstance(seen, dict) else {}
        return next((one for one in status.get("conditions", []) if one["type"] == "Ready"), {})

    def _write_settings(self, cgroup: str, kubelet: Mapping[str, object]) -> None:
        user = f"system:node:{self.name}"
        authority = self._api.authority
        identity = authority.issue(self.name, user=user, group="system:nodes")
        authority.kubeconfig(self.folder / "kubeconfig", self._api.url, identity)
        serving = authority.issue(f"{self.name}-serving", user=user, hosts=(self.ip, self.name))
        settings: dict[str, object] = {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "authentication": {
                "x509": {"clientCAFile": str(authority.ca)},
                "webhook": {"enabled": True},
                "anonymous": {"enabled": False},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.chain),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "address": self.ip,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,  # true by default from 1.35 on
            "failSwapOn": False,
            "oomScoreAdj": 0,  # less takes CAP_SYS_RESOURCE
            "makeIPTablesUtilChains": False,
            "resolvConf": "",
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",  # the default would be made on the host
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "0%"},
            "nodeStatusUpdateFrequency": "5s",
            **kubelet,
        }
        (self.folder / "kubelet.json").write_text(json.dumps(settings))
        ipam = {"type": "host-local", "ranges": [[{"subnet": self.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "ipam": ipam}
        (self.folder / "cni.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "kubetest", "plugins": [bridge]}))
        (self.folder / "containerd.toml").write_text(_CONTAINERD)


_CONTAINERD = f'''version = 2
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true        # no CAP_SYS_RESOURCE
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
'''
