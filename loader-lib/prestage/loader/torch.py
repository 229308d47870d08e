"""`load_file` and `load_model` for torch, in the place of those of safetensors.torch."""

from __future__ import annotations

import os

import torch

from prestage.loader.access import safe_open
from prestage.loader.tied import removed_names

__all__ = ["load_file", "load_model"]


def load_file(
    filename: str | os.PathLike[str], device: str | int = "cpu", *, backend: str = "mmap", verify: str = "auto"
) -> dict[str, torch.Tensor]:
    """Every tensor of the file by name, in the order of their bytes, on `device`.

    On the CPU tensors are writable and independent of each other and of the file. With `backend="mmap"` they map it
    copy-on-write, so it must not be rewritten in place while they live; `"pread"` copies. `verify`: see `safe_open`.

    Raises:
        FileNotFoundError, OSError, InvalidFile, CorruptFile, VerifyUnavailable, UnsupportedDtype: no tensor was returned.
    """
    with safe_open(filename, "pt", device, backend=backend, verify=verify) as file:
        return file.get_tensors()


def load_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: str | int = "cpu",
    *,
    backend: str = "mmap",
    verify: str = "auto",
) -> tuple[set[str], list[str]]:
    """Load the file into `model`; names that the model ties together need to be in the file once.

    Returns:
        (missing, unexpected): names of the model that were not loaded, names of the file that were not used.

    Raises:
        RuntimeError: `strict` and there are missing or unexpected names. The others were loaded, as with the safetensors library.
        FileNotFoundError, OSError, InvalidFile, CorruptFile, VerifyUnavailable, UnsupportedDtype: the model is untouched.
    """
    loaded = load_file(filename, device, backend=backend, verify=verify)
    removed = removed_names(model.state_dict(), kept=loaded.keys())
    result = model.load_state_dict(loaded, strict=False)
    missing = set(result.missing_keys)
    unexpected = [*result.unexpected_keys, *(name for name in removed if name not in missing)]
    missing -= set(removed)
    if strict and (missing or unexpected):
        raise RuntimeError(_complaint(type(model).__name__, missing, unexpected))
    return missing, unexpected


def _complaint(model: str, missing: set[str], unexpected: list[str]) -> str:
    lines = [f"Error(s) in loading state_dict for {model}:"]
    for what, names in (("Missing", sorted(missing)), ("Unexpected", sorted(unexpected))):
        if names:
            lines.append(f"    {what} key(s) in state_dict: " + ", ".join(f'"{name}"' for name in names))
    return "\n".join(lines)
