"""Safetensors on local disk to tensors, verified against the node's chunk sums.

    from prestage.loader import open_model, start              # a whole checkpoint, all shards in one plan
    from prestage.loader import safe_open                      # as safetensors.safe_open, with verify=
    from prestage.loader.torch import load_file, load_model    # imports torch
    from prestage.loader.numpy import load_file                # imports numpy
    with prestage.loader.accelerate(): ...                     # code that uses the safetensors library uses this one

Importing this imports no framework, starts nothing, and takes milliseconds: each name is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing is 10 ms of import
if TYPE_CHECKING:
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
    from prestage.loader.integrations.rebind import accelerate
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
    "accelerate",
    "last_report",
    "open_model",
    "safe_open",
    "start",
]

_HOMES = {
    "accelerate": "integrations.rebind",
    "last_report": "report",
    "open_model": "api",
    "safe_open": "access",
    "start": "api",
}
"""The module of each name that is no error."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
