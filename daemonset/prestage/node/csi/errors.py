"""What the kubelet is answered, from our errors. Pure."""

from __future__ import annotations

import grpc

from prestage.cacher.errors import PrestageError

CODES = {
    "misconfigured": grpc.StatusCode.INVALID_ARGUMENT,
    "miss": grpc.StatusCode.NOT_FOUND,
    "denied": grpc.StatusCode.PERMISSION_DENIED,
    "corrupt": grpc.StatusCode.DATA_LOSS,
    "busy": grpc.StatusCode.UNAVAILABLE,
    "full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "bug": grpc.StatusCode.INTERNAL,
}
MESSAGE_MAX = 1000
"""An Event takes 1024 bytes."""


def answered(error: PrestageError) -> tuple[grpc.StatusCode, str]:
    """Status and text: the text becomes an Event of the pod."""
    return CODES.get(error.kind, grpc.StatusCode.INTERNAL), str(error)[:MESSAGE_MAX]
