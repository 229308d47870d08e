"""A real kube-apiserver on a real etcd: on loopback by itself, or as the head of a `Cluster`.

It can be killed, frozen and restarted on the same port, and etcd compacted, at any moment.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import urllib.error
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from cluster.certificates import Authority
from cluster.processes import Processes
from servers.programs import find, free_port, lacking

START_TIMEOUT_S = 90.0
"""Two cores that build something else meanwhile."""


class ApiServer:
    """etcd (or kine) and kube-apiserver below `folder`, on `host`. `service_ips`: never routed when the server is alone."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        service_ips: str = "10.255.255.0/24",
        storage: Literal["etcd", "kine"] = "etcd",
        flags: Sequence[str] = (),
        shared: bool = False,
    ) -> None:
        found = find("kubetest")
        if found is None:
            raise RuntimeError(lacking("kubernetes"))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.binary, self.folder, self.host = found, folder, host
        self.port = free_port(host)
        self.url = f"https://{host}:{self.port}"
        self.processes = Processes(folder, shared=shared)
        self.authority = Authority(folder)
        self.token_key = self.authority.service_account_key()
        self._storage = storage
        self._storage_url = f"http://127.0.0.1:{free_port()}"
        admin = self.authority.issue("admin", user="admin", group="system:masters")
        self.kubeconfig = self.authority.kubeconfig(folder / "kubeconfig", self.url, admin)
        tls = ssl.create_default_context(cafile=str(self.authority.ca))
        tls.load_cert_chain(admin.chain, admin.key)
        self._opener = build_opener(ProxyHandler({}), HTTPSHandler(context=tls))
        self._argv: list[str | Path] = [found, "kube-apiserver", *self._flags(service_ips), *flags]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Both programs; returns when /readyz says ok."""
        self.processes.start(self._storage, self._storage_argv())
        self.up()

    def close(self) -> None:
        self.processes.kill_all()

    def up(self) -> None:
        """Start kube-apiserver (again) on the same port; returns when /readyz says ok."""
        self.processes.start("kube-apiserver", self._argv)
        self.processes.wait_for(lambda: self.ask("/readyz") == "ok", what="kube-apiserver ready", timeout_s=START_TIMEOUT_S)

    def down(self) -> None:
        """kill -9: connections end without a word, and are refused from then on."""
        self.processes.kill("kube-apiserver")

    def freeze(self) -> None:
        """Connections stay open, nothing answers."""
        self.processes.pause("kube-apiserver")

    def thaw(self) -> None:
        self.processes.resume("kube-apiserver")

    def compact(self) -> None:
        """Forget every revision but the newest: what etcd does after five minutes."""
        head = self._etcd("/v3/kv/range", {"key": "AA==", "count_only": True})["header"]
        assert isinstance(head, dict)
        self._etcd("/v3/kv/compaction", {"revision": head["revision"], "physical": True})

    def stored(self, key: str) -> dict[str, object]:
        """A custom resource as it lies in etcd, below /registry/."""
        asked = base64.b64encode(f"/registry/{key}".encode()).decode()
        [pair] = cast("list[dict[str, str]]", self._etcd("/v3/kv/range", {"key": asked})["kvs"])
        found: dict[str, object] = json.loads(base64.b64decode(pair["value"]))
        return found

    def ask(self, path: str, *, method: str = "GET", body: object = None, kind: str = "application/json") -> object:
        """As admin: JSON read, other text as it is, None where the answer is an error. For the harness; tests have clients."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data=data, method=method, headers={"Content-Type": kind, "Accept": "application/json"})
        try:
            with self._opener.open(request, timeout=10) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            error.close()
            return None
        return json.loads(text) if text.startswith("{") else text

    def kubectl(self, *words: str | Path, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """What it prints. Raises RuntimeError with what it says on stderr when it fails."""
        done = self.try_kubectl(*words, stdin=stdin, kubeconfig=kubeconfig)
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def try_kubectl(
        self, *words: str | Path, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        argv: list[str | Path] = [self.binary, "kubectl", f"--kubeconfig={kubeconfig or self.kubeconfig}", *map(str, words)]
        cache = {"HOME": str(self.folder), "PATH": "/usr/bin:/bin", "KUBECACHEDIR": str(self.folder / "cache")}
        return subprocess.run(argv, input=stdin or "", capture_output=True, text=True, timeout=120, env=cache, check=False)

    def _storage_argv(self) -> list[str | Path]:
        if self._storage == "kine":
            database = f"sqlite://{self.folder}/kine.db?_journal=WAL&cache=shared&_busy_timeout=30000"
            listen = ["--listen-address", self._storage_url.replace("http", "tcp"), "--metrics-bind-address", "0"]
            return [self.binary, "kine", *listen, "--endpoint", database]
        peer = f"http://127.0.0.1:{free_port()}"
        clients = ["--listen-client-urls", self._storage_url, "--advertise-client-urls", self._storage_url]
        peers = ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        data = ["--data-dir", f"{self.folder}/etcd", "--unsafe-no-fsync", "--log-level", "warn"]
        return [self.binary, "etcd", *data, *clients, *peers]

    def _flags(self, service_ips: str) -> list[str]:
        first = ".".join(service_ips.split(".")[:3]) + ".1"
        names = ("127.0.0.1", self.host, first, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        tls = self.authority.issue("apiserver", user="kube-apiserver", hosts=tuple(dict.fromkeys(names)))
        kubelet = self.authority.issue("apiserver-kubelet", user="kube-apiserver", group="system:masters")
        return [
            f"--etcd-servers={self._storage_url}",
            f"--bind-address={self.host}",
            f"--secure-port={self.port}",
            f"--advertise-address={self.host}" if self.host != "127.0.0.1" else "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={service_ips}",
            "--allow-privileged=true",
            f"--client-ca-file={self.authority.ca}",
            f"--tls-cert-file={tls.chain}",
            f"--tls-private-key-file={tls.key}",
            f"--kubelet-client-certificate={kubelet.chain}",
            f"--kubelet-client-key={kubelet.key}",
            f"--kubelet-certificate-authority={self.authority.ca}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.token_key}",
            f"--service-account-signing-key-file={self.token_key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
        ]

    def _etcd(self, path: str, body: dict[str, object]) -> dict[str, object]:
        request = Request(self._storage_url + path, data=json.dumps(body).encode(), method="POST")
        with self._opener.open(request, timeout=10) as answer:
            said: dict[str, object] = json.load(answer)
        return said
