"""A whole cluster: API server, controller-manager, scheduler, and real nodes; root, but nothing of it outlives the test process.

There is no route to the outside and no DNS: images come by `Node.import_image` or from a registry on `cluster.ip`. A webhook
or an origin of a test listens on `cluster.ip` or 127.0.0.1 (API server), pods reach the former.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster import cgroups, images
from cluster.apiserver import ApiServer
from cluster.network import Network
from cluster.node import PAUSE, Node
from cluster.processes import Processes

_FAST = ("--kube-api-qps=500", "--kube-api-burst=1000", "--leader-elect=false", "--v=2")
"""The defaults of 20 and 30 requests a second would hold large tests back."""


class Cluster:
    """With `nodes` nodes Ready and the default service account there. `kubelet`: settings beyond ours.

    `services`: kube-proxy runs on the nodes and Services work there; the API server asks webhooks at their pods' addresses.
    `shared` by several tests: each may restart what it likes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        kubelet: Mapping[str, object] | None = None,
        flags: Sequence[str] = (),
        services: bool = False,
        shared: bool = False,
    ) -> None:
        self._folder, self._count, self._kubelet, self._flags = folder, nodes, kubelet or {}, flags
        self._services, self._shared = services, shared
        self.nodes: list[Node] = []
        self._wires: Processes | None = None
        self._network: Network | None = None
        self._api: ApiServer | None = None

    @property
    def api(self) -> ApiServer:
        """Of a running cluster."""
        assert self._api is not None
        return self._api

    @property
    def ip(self) -> str:
        """Where the caller is, seen from nodes and pods."""
        assert self._network is not None
        return self._network.ip

    def kubectl(self, *words: str | Path, stdin: str | None = None) -> str:
        return self.api.kubectl(*words, stdin=stdin)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Everything, whatever came to be."""
        if self._api:
            self._api.close()
        if self._network:
            _remove_cgroups(self._network.interface)
            self._network.close()
        if self._wires:
            self._wires.kill_all()
        self._api = self._network = self._wires = None

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._wires = Processes(self._folder)
        self._network = network = Network(self._wires)
        cgroups.remove(network.interface)  # empty ones of a run that was killed
        pause = images.write(self._folder / "pause.tar", PAUSE, ["/bin/busybox", "tail", "-f", "/dev/null"])
        services = f"{network.prefix}.255.0/24"
        flags = [*self._flags, "--enable-aggregator-routing=true"] if self._services else self._flags
        self._api = api = ApiServer(self._folder, host=network.ip, service_ips=services, flags=flags, shared=self._shared)
        api.start()
        self._start_controllers(api)
        for number in range(1, self._count + 1):
            node = Node(number, api, network)
            node.start(self.nodes, pause=pause, kubelet=self._kubelet)
            self.nodes.append(node)
            if self._services:
                self._start_proxy(api, node)
        for node in self.nodes:
            api.processes.wait_for(node.ready, what=f"{node.name} Ready", timeout_s=90)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        api.processes.wait_for(lambda: api.ask(account), what="the default service account", timeout_s=90)

    def reboot(self, node: Node, *, between: Callable[[], None] = lambda: None) -> None:
        """See Node.reboot; returns when it is Ready again."""
        if self._services:
            self.api.processes.kill(f"{node.name}-proxy")
        before = node.heartbeat()
        node.reboot(between=between)
        if self._services:
            self._start_proxy(self.api, node)
        self.api.processes.wait_for(
            lambda: node.heartbeat() != before and node.ready(), what=f"{node.name} Ready again", timeout_s=90
        )

    def _start_controllers(self, api: ApiServer) -> None:
        folder, authority = api.folder, api.authority
        manager = authority.issue("controller-manager", user="system:kube-controller-manager")
        scheduler = authority.issue("scheduler", user="system:kube-scheduler")
        account = f"--service-account-private-key-file={api.token_key}"
        flex = f"--flex-volume-plugin-dir={folder}/flex"  # else it is made on the host
        for name, identity, more in (
            (
                "kube-controller-manager",
                manager,
                [f"--root-ca-file={authority.ca}", account, flex, "--use-service-account-credentials"],
            ),
            ("kube-scheduler", scheduler, []),
        ):
            config = authority.kubeconfig(folder / f"{name}.conf", api.url, identity)
            argv: list[str | Path] = [api.binary, name, f"--kubeconfig={config}", f"--bind-address={api.host}", *_FAST, *more]
            api.processes.start(name, argv)

    def _start_proxy(self, api: ApiServer, node: Node) -> None:
        identity = api.authority.issue(f"{node.name}-proxy", user="system:kube-proxy")
        config = api.authority.kubeconfig(api.folder / f"{node.name}-proxy.conf", api.url, identity)
        argv: list[str | Path] = [api.binary, "kube-proxy", f"--kubeconfig={config}", f"--hostname-override={node.name}"]
        more = [
            "--proxy-mode=iptables",
            "--conntrack-max-per-core=0",
            "--oom-score-adj=0",
            "--v=1",
            f"--cluster-cidr={node.pods}",
        ]
        api.processes.start(f"{node.name}-proxy", node.enter(*argv, *more))


def _remove_cgroups(name: str) -> None:
    """Once the last processes of the pods are gone."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            return cgroups.remove(name)
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)
