"""Safetensors on local disk to tensors, verified against the node's chunk sums.

    from prestage.loader import open_model, start              # a whole checkpoint, all shards in one plan
    from prestage.loader import safe_open                      # as safetensors.safe_open, with verify=
    from prestage.loader.torch import load_file, load_model    # imports torch
    from prestage.loader.numpy import load_file                # imports numpy

Importing this imports no framework, starts nothing, and takes milliseconds.
"""

from __future__ import annotations

from prestage.loader.access import safe_open
from prestage.loader.api import open_model, start
from prestage.loader.errors import (
    BadIndex,
    Closed,
    CorruptFile,
    DeviceError,
    InvalidCheckpoint,
    InvalidFile,
    OverBudget,
    SafetensorError,
    UnknownTensor,
    Unsupported,
    UnsupportedDtype,
    VerifyUnavailable,
)
from prestage.loader.report import last_report

__all__ = [
    "BadIndex",
    "Closed",
    "CorruptFile",
    "DeviceError",
    "InvalidCheckpoint",
    "InvalidFile",
    "OverBudget",
    "SafetensorError",
    "UnknownTensor",
    "Unsupported",
    "UnsupportedDtype",
    "VerifyUnavailable",
    "last_report",
    "open_model",
    "safe_open",
    "start",
]
