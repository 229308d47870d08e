"""The node's two processes as a DaemonSet starts them: `prestage node agent` and `prestage node csi`, on folders of a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import leaks

from prestage.wire import csi_pb2 as csi
from servers.broker import Broker

READY_S = 60.0


class Ended(AssertionError):
    """It ended, or said something wrong."""


@dataclass
class Part:
    """One process. `within`: what it runs in, e.g. a node's namespaces; then it says its own pid."""

    name: str
    argv: Sequence[str | Path]
    folder: Path
    within: Sequence[str] = ()
    runs: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}-{self.runs}.log"

    def start(self, ready: str) -> None:
        self.runs += 1
        command = [*self.within, sys.executable, "-m", "prestage.cacher.cli", *map(str, self.argv)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        leaks.shared.add(self.process.pid)  # of a fixture's: a test may restart it
        self.wait_for(ready)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def wait_for(self, name: str, *, timeout_s: float = READY_S, **fields: object) -> dict[str, Any]:
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for event in self.events():
                if event["event"] == name and all(event.get(key) == value for key, value in fields.items()):
                    return event
            if self.process is None or self.process.poll() is not None:
                raise Ended(f"{self.name} ended: {self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        raise Ended(f"{self.name} did not say {name} in {timeout_s} s: {self.log.read_text()[-4000:]}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Of what runs in it, where it is wrapped."""
        if self.process is None:
            return
        process, self.process = self.process, None
        leaks.shared.discard(process.pid)
        inner = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() if self.within else []
        for pid in map(int, inner or [str(process.pid)]):
            os.kill(pid, number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Ended(f"{self.name} did not end: {self.log.read_text()[-4000:]}") from None
        if number is signal.SIGTERM:
            text = self.log.read_text()
            assert "Traceback" not in text, text[-6000:]
            assert process.returncode == 0, text[-4000:]


@dataclass
class NodeParts:
    """Both of them. `kubelet`: its folder as they see it."""

    folder: Path
    broker: Broker
    kubeconfig: Path
    node: str
    kubelet: Path
    within: Sequence[str] = ()
    options: Sequence[str] = ()
    agent: Part = field(init=False)
    csi: Part = field(init=False)

    def __post_init__(self) -> None:
        self.root, self.agent_socket = self.folder / "store", self.folder / "agent.sock"
        self.endpoint = self.kubelet / "plugins" / "prestage.dev" / "csi.sock"
        common: list[str | Path] = ["--node", self.node, "--broker", self.broker.url, "--broker-ca", self.broker.ca]
        common += ["--broker-token", self.broker.token, "--kubeconfig", self.kubeconfig]
        agent: list[str | Path] = ["node", "agent", "--root", self.root, "--socket", self.agent_socket, "--listen", "none"]
        driver: list[str | Path] = ["node", "csi", "--agent", self.agent_socket, "--endpoint", self.endpoint]
        driver += ["--driver-path", self.endpoint, "--registration", self.kubelet / "plugins_registry"]
        driver += ["--kubelet-dir", self.kubelet]
        self.agent = Part("agent", [*agent, *common, *self.options], self.folder, self.within)
        self.csi = Part("csi", [*driver, *common], self.folder, self.within)

    def __enter__(self) -> NodeParts:
        try:
            self.agent.start("agent_ready")
            self.csi.start("csi_ready")
        except BaseException:
            self.close(signal.SIGKILL)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        if exc is not None:
            exc.add_note(self.agent.log.read_text()[-4000:])
            exc.add_note(self.csi.log.read_text()[-4000:])
        self.close(signal.SIGKILL if exc is not None else signal.SIGTERM)

    def close(self, number: signal.Signals = signal.SIGTERM) -> None:
        for part in (self.csi, self.agent):
            part.stop(number)


class Driver:
    """The kubelet's end of the driver's socket."""

    def __init__(self, endpoint: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{endpoint}")

    def close(self) -> None:
        self._channel.close()

    def call(self, method: str, request: Any, answer: Any, timeout_s: float = 20.0) -> Any:
        asked = self._channel.unary_unary(
            f"/csi.v1.{method}", request_serializer=lambda one: one.SerializeToString(), response_deserializer=answer.FromString
        )
        return asked(request, timeout=timeout_s, wait_for_ready=True)

    def publish(
        self,
        target: Path,
        context: Mapping[str, str],
        *,
        secrets: Mapping[str, str] | None = None,
        timeout_s: float = 20.0,
        volume: str = "csi-1",
    ) -> None:
        request = csi.NodePublishVolumeRequest(
            volume_id=volume,
            target_path=str(target),
            volume_capability=csi.VolumeCapability(mount=csi.VolumeCapability.MountVolume()),
            readonly=True,
            secrets=dict(secrets or {}),
            volume_context=dict(context),
        )
        self.call("Node/NodePublishVolume", request, csi.NodePublishVolumeResponse, timeout_s)

    def unpublish(self, target: Path, *, volume: str = "csi-1") -> None:
        request = csi.NodeUnpublishVolumeRequest(volume_id=volume, target_path=str(target))
        self.call("Node/NodeUnpublishVolume", request, csi.NodeUnpublishVolumeResponse)
