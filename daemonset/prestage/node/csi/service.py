"""CSI's Identity and Node services, and the kubelet's registration, as gRPC methods."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue

from prestage.api.annotations import DRIVER
from prestage.cacher.agent.logs import log
from prestage.cacher.errors import Bug, Misconfigured, PrestageError
from prestage.cacher.net.config import VERSION
from prestage.node.csi.asking import asked
from prestage.node.csi.errors import answered
from prestage.node.csi.publishing import Publisher
from prestage.wire import csi_pb2 as csi
from prestage.wire import pluginregistration_pb2 as registration

CALL_S = 120.0
"""What the kubelet gives a publish."""
MARGIN_S = 5.0
"""So long before its deadline a publish says how it goes."""
_Request = TypeVar("_Request", bound=Message)
_Answer = TypeVar("_Answer", bound=Message)


class Context(Protocol):
    """The part of grpc.aio.ServicerContext that is used."""

    def time_remaining(self) -> float | None:
        """Seconds to the caller's deadline; None: he gave none."""
        ...

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with that."""
        ...


class Identity:
    """Who we are."""

    async def info(self, _request: csi.GetPluginInfoRequest, _context: Context) -> csi.GetPluginInfoResponse:
        """Name and version."""
        return csi.GetPluginInfoResponse(name=DRIVER, vendor_version=VERSION)

    async def capabilities(
        self, _request: csi.GetPluginCapabilitiesRequest, _context: Context
    ) -> csi.GetPluginCapabilitiesResponse:
        """None: a driver of inline volumes has no controller."""
        return csi.GetPluginCapabilitiesResponse()

    async def probe(self, _request: csi.ProbeRequest, _context: Context) -> csi.ProbeResponse:
        """The loop turns."""
        return csi.ProbeResponse(ready=BoolValue(value=True))


class Node:
    """Publish and unpublish."""

    def __init__(self, publisher: Publisher, node: str, kubelet_dir: Path) -> None:
        self._publisher, self._node, self._kubelet_dir = publisher, node, kubelet_dir

    async def info(self, _request: csi.NodeGetInfoRequest, _context: Context) -> csi.NodeGetInfoResponse:
        """Which node."""
        return csi.NodeGetInfoResponse(node_id=self._node)

    async def capabilities(self, _request: csi.NodeGetCapabilitiesRequest, _context: Context) -> csi.NodeGetCapabilitiesResponse:
        """None beyond publishing."""
        return csi.NodeGetCapabilitiesResponse()

    async def publish(self, request: csi.NodePublishVolumeRequest, context: Context) -> csi.NodePublishVolumeResponse:
        """See publishing.py."""
        target = self._target(request.volume_id, request.target_path)
        if request.volume_capability.WhichOneof("access_type") is None:
            raise Misconfigured("the request has no volume capability", hint="CSI asks for one")
        if request.volume_capability.WhichOneof("access_type") == "block":
            raise Misconfigured("a model is no block device", hint="mount it as a file system")
        wanted = asked(request.volume_context, request.secrets)
        left_s = context.time_remaining()
        left_s = CALL_S if left_s is None else left_s
        ends_s = asyncio.get_running_loop().time() + left_s - min(MARGIN_S, left_s / 10)
        await self._publisher.publish(target, wanted, ends_s)
        return csi.NodePublishVolumeResponse()

    async def unpublish(self, request: csi.NodeUnpublishVolumeRequest, _context: Context) -> csi.NodeUnpublishVolumeResponse:
        """See publishing.py."""
        await self._publisher.unpublish(self._target(request.volume_id, request.target_path))
        return csi.NodeUnpublishVolumeResponse()

    def _target(self, volume_id: str, path: str) -> Path:
        if not volume_id:
            raise Misconfigured("the request names no volume", hint="CSI asks for a volume_id")
        if not path.startswith("/") or "/../" in f"{path}/":
            raise Misconfigured("the request has no absolute target path", hint="CSI asks for a target_path")
        if not Path(path).is_relative_to(self._kubelet_dir):
            raise Misconfigured(f"{path[:200]} is not below {self._kubelet_dir}", hint="start csi with --kubelet-dir")
        return Path(path)


class Registration:
    """What the kubelet asks a socket in its registry."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint

    async def info(self, _request: registration.InfoRequest, _context: Context) -> registration.PluginInfo:
        """Where the driver is, as the kubelet sees it."""
        return registration.PluginInfo(type="CSIPlugin", name=DRIVER, endpoint=str(self._endpoint), supported_versions=["1.0.0"])

    async def notify(
        self, request: registration.RegistrationStatus, _context: Context
    ) -> registration.RegistrationStatusResponse:
        """How it went."""
        if request.plugin_registered:
            log("registered", fields={"driver": DRIVER})
        else:
            log("not_registered", level=logging.ERROR, fields={"driver": DRIVER, "message": request.error})
        return registration.RegistrationStatusResponse()


def driver_services(identity: Identity, node: Node) -> list[grpc.GenericRpcHandler]:
    """Of the driver's socket."""
    return [
        _service(
            "csi.v1.Identity",
            {
                "GetPluginInfo": _method(identity.info, csi.GetPluginInfoRequest),
                "GetPluginCapabilities": _method(identity.capabilities, csi.GetPluginCapabilitiesRequest),
                "Probe": _method(identity.probe, csi.ProbeRequest),
            },
        ),
        _service(
            "csi.v1.Node",
            {
                "NodeGetInfo": _method(node.info, csi.NodeGetInfoRequest),
                "NodeGetCapabilities": _method(node.capabilities, csi.NodeGetCapabilitiesRequest),
                "NodePublishVolume": _method(node.publish, csi.NodePublishVolumeRequest),
                "NodeUnpublishVolume": _method(node.unpublish, csi.NodeUnpublishVolumeRequest),
            },
        ),
    ]


def registration_services(it: Registration) -> list[grpc.GenericRpcHandler]:
    """Of the socket in the kubelet's registry."""
    return [
        _service(
            "pluginregistration.Registration",
            {
                "GetInfo": _method(it.info, registration.InfoRequest),
                "NotifyRegistrationStatus": _method(it.notify, registration.RegistrationStatus),
            },
        )
    ]


def _service(name: str, methods: Mapping[str, grpc.RpcMethodHandler]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(name, methods)


def _method(call: Callable[[_Request, Context], Awaitable[_Answer]], takes: type[_Request]) -> grpc.RpcMethodHandler:
    """Errors of ours as statuses; what a method raises besides is a bug, told once."""

    async def handle(request: _Request, context: Context) -> _Answer:
        try:
            return await call(request, context)
        except PrestageError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 - the edge of a call: one call's bug must not end the others
            log("call_bug", level=logging.ERROR, exc=exc, fields={"request": takes.__name__})
            error = Bug(f"{type(exc).__name__}: {exc}", hint="please report it")
        code, text = answered(error)
        log("call_refused", fields={"request": takes.__name__, "code": code.name, "message": text})
        return await context.abort(code, text)

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=takes.FromString, response_serializer=lambda answer: answer.SerializeToString()
    )
