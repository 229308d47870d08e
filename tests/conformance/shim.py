"""A pytest plugin (`-p conformance.shim`) that puts this loader's readers where the safetensors library's tests import theirs.

Readers only: files are written by the library, and other frameworks than torch and numpy go to it. Calls are counted and said at
the end, else a suite that imports its readers in another way would pass and test nothing. PRESTAGE_SHIM=off: the library itself;
"wrong": load_file gives zeros, which the suite must see.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import safetensors
import safetensors.numpy
import safetensors.torch

import prestage.loader.numpy
import prestage.loader.torch
from prestage.loader.integrations.rebind import library_errors, opened

CALLS: Counter[str] = Counter()
MODE = os.environ.get("PRESTAGE_SHIM", "on")


def _served(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kw: Any) -> Any:
        CALLS[name] += 1
        with library_errors():
            result = function(*args, **kw)
        return {key: value * 0 for key, value in result.items()} if MODE == "wrong" and name.endswith("load_file") else result

    return call


def _opener(stock: Callable[..., Any]) -> Callable[..., Any]:
    ours = _served("safe_open", opened)

    def call(filename: Any, framework: Any, *args: Any, **kw: Any) -> Any:
        other = framework in ("tf", "tensorflow", "flax", "jax", "mlx", "paddle")
        return (stock if other else ours)(filename, framework, *args, **kw)

    return call


def _stand_in() -> None:
    opener = _opener(safetensors.safe_open)
    vars(safetensors)["safe_open"] = vars(safetensors.torch)["safe_open"] = opener
    vars(safetensors.torch)["load_file"] = _served("torch.load_file", prestage.loader.torch.load_file)
    vars(safetensors.torch)["load_model"] = _served("torch.load_model", prestage.loader.torch.load_model)
    vars(safetensors.numpy)["load_file"] = _served("numpy.load_file", prestage.loader.numpy.load_file)


if MODE != "off":
    _stand_in()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"prestage shim: {json.dumps(CALLS, sort_keys=True)}")
