"""A cluster of fake nodes with our control plane: what `prestage bench control` measures. Run by hand: `make bench-control`.

Real: API server, scheduler, controllers; planner, admission and broker as processes with their own rights; a hub with a model
for each template. Fake: the nodes, which kwok keeps Ready, and their agents, which the bench stands in for.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from click.testing import CliRunner, Result

from cluster import kinds
from cluster.pods import OURS, Admission, account, applied, kubeconfig_of
from cluster.whole import Cluster
from prestage.api.brokerage import AUDIENCE
from prestage.bench.cli import bench
from prestage.control.admission.rbac import LEADER_RULES
from prestage.control.broker.rbac import RULES as BROKER_RULES
from prestage.control.planning.rbac import RULES as PLANNER_RULES
from prestage.kube.ports import Object
from servers.hub import Hub
from servers.programs import find, free_port

TEAM = "team"
REFS = "hf://bench/m{n}@main"
_STAGES = Path(__file__).with_name("kwok.yaml")
_WAYS = {"prestage.dev/enabled": "true", "test.prestage.dev/webhook": "true", "test.prestage.dev/policy": "true"}


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything runs. `metrics`: part to URL."""

    cluster: Cluster
    metrics: dict[str, str]

    def bench(self, *words: str | float) -> Result:
        """`prestage bench control` on it."""
        return CliRunner().invoke(bench, self.argv(*words), catch_exceptions=False)

    def argv(self, *words: str | float) -> list[str]:
        """Of `prestage bench`."""
        argv = ["control", "-n", TEAM, "--refs", REFS, "--kubeconfig", str(self.cluster.api.kubeconfig), *map(str, words)]
        for part, url in self.metrics.items():
            argv += ["--part", f"{part}={url}"]
        return argv


@contextmanager
def fleet(folder: Path, models: int, *, audited: bool = False) -> Iterator[Fleet]:
    """A hub with that many models; no node yet. `audited`: the API server notes each write in `audit.log`."""
    hub_root = folder / "hub"
    for number in range(models):
        (hub_root / "bench" / f"m{number}").mkdir(parents=True)
        (hub_root / "bench" / f"m{number}" / "config.json").write_text(f'{{"model": {number}}}')
    flags = _audit(folder) if audited else ()
    with Hub(hub_root) as hub, Cluster(folder / "cluster", nodes=0, flags=flags) as cluster:
        api = cluster.api
        _start(cluster, "kwok", find("kwok") or "kwok", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake")
        kinds.install(api)
        names = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OURS}}]
        names += [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM, "labels": _WAYS}}]
        applied(api, *names, *_walls(hub.endpoint))
        metrics = {"broker": _broker(cluster), "planner": _planner(cluster)}
        admission = Admission(api)
        try:
            admission.start()
            admission.register()
            metrics["admission"] = f"http://127.0.0.1:{admission.ports['admission'][1]}/metrics"
            yield Fleet(cluster, metrics)
        finally:
            admission.processes.kill_all()


def _audit(folder: Path) -> tuple[str, ...]:
    policy = folder / "audit.json"
    writes = {"level": "Metadata", "verbs": ["create", "update", "patch", "delete"]}
    rules = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [writes]}
    policy.write_text(json.dumps(rules))
    return f"--audit-policy-file={policy}", f"--audit-log-path={folder / 'audit.log'}"


def written(log: Path) -> Counter[tuple[str, str, str]]:
    """Who wrote what, as the API server noted it: user, verb, resource; what was refused left out."""
    found = Counter[tuple[str, str, str]]()
    for line in log.read_text().splitlines():
        said = json.loads(line)
        about = said.get("objectRef", {})
        if said["responseStatus"]["code"] < 300:
            kind = "/".join(filter(None, (about.get("resource"), about.get("subresource"))))
            found[said["user"]["username"].rpartition(":")[2], said["verb"], kind] += 1
    return found


def _walls(endpoint: str) -> list[Object]:
    ours = {"apiVersion": "prestage.dev/v1alpha1"}
    origin = {"type": "HuggingFace", "default": True, "endpoint": endpoint, "allowedCIDRs": ["127.0.0.0/8"]}
    policy = {"namespaceSelector": {}, "hard": {"bytes": "100Ti"}}
    return [
        {**ours, "kind": "Origin", "metadata": {"name": "hub"}, "spec": origin},
        {**ours, "kind": "CachePolicy", "metadata": {"name": "default"}, "spec": policy},
    ]


def _start(cluster: Cluster, name: str, *argv: str | Path, kubeconfig: Path | None = None) -> None:
    config = kubeconfig or cluster.api.kubeconfig
    more: list[str | Path] = ["--config", _STAGES, "--node-lease-duration-seconds=40"] if name == "kwok" else []
    process = cluster.api.processes.start(name, [*argv, "--kubeconfig", config, *more])
    if name != "kwok" and (nice := os.environ.get("FLEET_NICE")):
        _first(process.pid, int(nice))


def _first(pid: int, nice: int) -> None:
    """Before all else on this machine. Each program here has a session of its own: where the kernel groups by sessions
    (CONFIG_SCHED_AUTOGROUP), the group's niceness is what counts."""
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    with suppress(FileNotFoundError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def _broker(cluster: Cluster) -> str:
    api, listen, health = cluster.api, free_port(), free_port()
    account(api, "prestage-broker", BROKER_RULES)
    ours = (sys.executable, "-m", "prestage.cacher.cli", "control", "broker", "--namespace", OURS, "--name", "127.0.0.1")
    at = ("--listen", f"127.0.0.1:{listen}", "--health", f"127.0.0.1:{health}")
    _start(cluster, "broker", *ours, *at, kubeconfig=kubeconfig_of(api, "prestage-broker"))
    _well(cluster, health, "the broker serving")
    (api.folder / "broker-url").write_text(f"https://127.0.0.1:{listen}")
    return f"http://127.0.0.1:{health}/metrics"


def _planner(cluster: Cluster) -> str:
    """It leads before it returns."""
    api, health = cluster.api, free_port()
    account(api, "prestage-planner", (*PLANNER_RULES, *LEADER_RULES))
    ca, token = api.folder / "broker-ca.crt", api.folder / "planner-token"
    published = ("get", "configmap", "prestage-broker-ca", "-n", OURS, "-o", r"jsonpath={.data.ca\.crt}")
    ca.write_text(api.kubectl(*published))
    token.write_text(api.kubectl("create", "token", "prestage-planner", "-n", OURS, f"--audience={AUDIENCE}").strip())
    ours = (sys.executable, "-m", "prestage.cacher.cli", "control", "planner", "--namespace", OURS)
    asks = ("--broker", (api.folder / "broker-url").read_text(), "--broker-ca", ca, "--broker-token", token)
    _start(cluster, "planner", *ours, *asks, "--health", f"127.0.0.1:{health}", kubeconfig=kubeconfig_of(api, "prestage-planner"))
    _well(cluster, health, "a planner leading", path="metrics", says="prestage_planner_leading 1.0")
    return f"http://127.0.0.1:{health}/metrics"


def _well(cluster: Cluster, port: int, what: str, *, path: str = "healthz", says: str = "ok") -> None:
    def look() -> bool:
        with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
            return says in answer.read().decode()

    cluster.api.processes.wait_for(look, what=what, timeout_s=60)


def main(words: Sequence[str]) -> None:
    """The figures of docs/planning.md and docs/gates.md; flags are the bench's. `FLEET_LOGS=DIR`: logs, and who wrote what.
    `FLEET_NICE=-10`: planner and broker before all else on this machine, as if they had a core of their own."""
    kept = os.environ.get("FLEET_LOGS")
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder, fleet(Path(folder), 600, audited=bool(kept)) as running:
        bench.main(running.argv(*words), standalone_mode=False)
        if kept:
            for (user, verb, kind), count in sorted(written(Path(folder, "audit.log")).items()):
                print(f"{count:7} {user} {verb} {kind}")
            for name in ("planner", "broker", "admission"):
                Path(kept, f"{name}.log").write_bytes((running.cluster.api.folder / f"{name}.log").read_bytes())


if __name__ == "__main__":
    main(sys.argv[1:])
