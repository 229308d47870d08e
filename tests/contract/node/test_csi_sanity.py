"""csi-sanity, whole: with a controller that only this test has, and a pod's real token in the secrets."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from servers.programs import find

from .conftest import World, tokens

pytestmark = [pytest.mark.slow, pytest.mark.needs("kubernetes", "mount", "root", "csi-sanity")]
HERE, DAEMONSET = Path(__file__).parent, Path(__file__).parents[3] / "daemonset"
REF = "hf://org/llama@main"


def messages(folder: Path) -> ModuleType:
    """Of controller.proto, made for this run."""
    argv = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{HERE}",
        f"-I{DAEMONSET}",
        f"--python_out={folder}",
        "controller.proto",
    ]
    subprocess.run(argv, check=True, timeout=60)
    spec = importlib.util.spec_from_file_location("controller_pb2", folder / "controller_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class Controller:
    """Volumes that are names; each is of one pod's models."""

    def __init__(self, made: ModuleType, context: Mapping[str, str]) -> None:
        self._made, self._context = made, dict(context)
        self._volumes: dict[str, int] = {}

    def create(self, request: Any, context: Any) -> Any:
        if not request.name or not request.volume_capabilities:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a name and capabilities are needed")
        size = request.capacity_range.required_bytes
        if self._volumes.setdefault(request.name, size) != size:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "of another size")
        volume = self._made.Volume(capacity_bytes=size, volume_id=request.name, volume_context=self._context)
        return self._made.CreateVolumeResponse(volume=volume)

    def delete(self, request: Any, context: Any) -> Any:
        if not request.volume_id:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "which?")
        self._volumes.pop(request.volume_id, None)
        return self._made.DeleteVolumeResponse()

    def validate(self, request: Any, context: Any) -> Any:
        if not request.volume_id or not request.volume_capabilities:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "which, and what?")
        if request.volume_id not in self._volumes:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such volume")
        confirmed = self._made.ValidateVolumeCapabilitiesResponse.Confirmed(volume_capabilities=request.volume_capabilities)
        return self._made.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    def capabilities(self, _request: Any, _context: Any) -> Any:
        one = self._made.ControllerServiceCapability(rpc=self._made.ControllerServiceCapability.RPC(type=1))
        return self._made.ControllerGetCapabilitiesResponse(capabilities=[one])

    @contextmanager
    def serving(self, path: Path, driver: Path) -> Iterator[None]:
        def method(call: Callable[[Any, Any], Any], takes: str) -> Any:
            reads = getattr(self._made, takes).FromString
            return grpc.unary_unary_rpc_method_handler(
                call, request_deserializer=reads, response_serializer=lambda answer: answer.SerializeToString()
            )

        methods = {
            "CreateVolume": method(self.create, "CreateVolumeRequest"),
            "DeleteVolume": method(self.delete, "DeleteVolumeRequest"),
            "ValidateVolumeCapabilities": method(self.validate, "ValidateVolumeCapabilitiesRequest"),
            "ControllerGetCapabilities": method(self.capabilities, "ControllerGetCapabilitiesRequest"),
        }
        with ThreadPoolExecutor(4) as threads, grpc.insecure_channel(f"unix:{driver}") as channel:
            server = grpc.server(threads)
            names = ("GetPluginInfo", "GetPluginCapabilities", "Probe")
            identity = {name: passed_on(channel, f"/csi.v1.Identity/{name}") for name in names}
            for service, handlers in (("csi.v1.Controller", methods), ("csi.v1.Identity", identity)):
                server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
            server.add_insecure_port(f"unix:{path}")
            server.start()
            try:
                yield
            finally:
                server.stop(0).wait(10)


def passed_on(channel: Any, method: str) -> Any:
    """What the driver itself answers: csi-sanity asks the controller's socket who it is."""
    ask = channel.unary_unary(method)
    return grpc.unary_unary_rpc_method_handler(lambda raw, context: ask(raw, timeout=10))


def test_csi_sanity_passes(world: World, tmp_path: Path) -> None:
    model = world.broker.put("llama", {"config.json": b"{}", "model.safetensors": os.urandom(200_000)})
    world.broker.grant(world.pods.namespace, REF, model)
    uid = world.pods.make("sane")
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text(json.dumps({"NodePublishVolumeSecret": tokens(world.pods.token("sane", uid))}))
    context = world.pods.context("sane", uid, {"model.prestage.dev/llama": REF})
    socket = world.parts.folder / "controller.sock"
    sanity = find("csi-sanity")
    assert sanity is not None
    folder = world.pods.kubelet / "sanity"
    folder.mkdir()
    argv: list[str | Path] = [sanity, f"-csi.endpoint=unix://{world.parts.endpoint}", f"-csi.controllerendpoint=unix://{socket}"]
    argv += [f"-csi.secrets={secrets}", f"-csi.mountdir={folder}/mount", f"-csi.stagingdir={folder}/staging", "-ginkgo.no-color"]
    with Controller(messages(tmp_path), context).serving(socket, world.parts.endpoint):
        for _ in range(3):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=400, check=False)
            # it waits a minute for a connection that is ready already to become so, where that is faster than its first look
            if "Connection timed out" not in done.stdout:
                break
    assert done.returncode == 0, done.stdout[-6000:]
    passed = int(done.stdout.rpartition(" Passed")[0].split()[-1])
    assert passed >= 25, done.stdout[-3000:]
    assert "0 Failed" in done.stdout
    mounted = [event for event in world.parts.csi.events() if event["event"] == "mounted" and event["pod"] == uid]
    assert mounted, done.stdout[-3000:]
    assert world.trees() == []
