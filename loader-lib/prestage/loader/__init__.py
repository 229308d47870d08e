"""Safetensors on local disk to tensors, verified against the node's chunk sums.

    from prestage.loader import safe_open                      # as safetensors.safe_open, with verify=
    from prestage.loader.torch import load_file, load_model    # imports torch
    from prestage.loader.numpy import load_file                # imports numpy
    with prestage.loader.accelerate(): ...                     # code that uses the safetensors library uses this one

Importing this imports no framework, starts nothing, and takes milliseconds.
"""

from __future__ import annotations

from prestage.loader.access import safe_open
from prestage.loader.errors import (
    BadIndex,
    Closed,
    CorruptFile,
    InvalidFile,
    SafetensorError,
    UnknownTensor,
    Unsupported,
    UnsupportedDtype,
    VerifyUnavailable,
)
from prestage.loader.integrations.rebind import accelerate
from prestage.loader.report import LoadReport, Outcome, last_report

__all__ = [
    "BadIndex",
    "Closed",
    "CorruptFile",
    "InvalidFile",
    "LoadReport",
    "Outcome",
    "SafetensorError",
    "UnknownTensor",
    "Unsupported",
    "UnsupportedDtype",
    "VerifyUnavailable",
    "accelerate",
    "last_report",
    "safe_open",
]
