"""What one `bench load` measures: states, loaders, where the tensors go; what it refuses. Pure, but that it looks for modules.

To a device, "pinned" is the limit of a hot load: copies from one pinned buffer. Half and script are of loads to memory only.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from prestage.bench import load_script
from prestage.bench.load_rows import PINNED, SCRIPT
from prestage.cacher.errors import Misconfigured

CPU = "cpu"
STATES = ("hot", "cold", "half", SCRIPT)
RAW = ("raw-4", "raw-8", "raw-16", "raw-32")
RETURN_NOTHING = ("xxh3", PINNED, *RAW)
_BY_STATE: dict[str, tuple[str, ...]] = {
    "hot": (
        "safetensors", "safetensors-pread", "transformers", "fastsafetensors", "runai", "prestage", "prestage-verified", "xxh3",
    ),
    "cold": (
        "safetensors", "safetensors-pread", "transformers", "fastsafetensors", "runai", "prestage", "prestage-verified", *RAW,
    ),
    "half": ("safetensors", "runai", "prestage", "prestage-mapped", "prestage-private"),
    SCRIPT: load_script.PARTS,
}  # fmt: skip
_TO_DEVICE = (
    "safetensors", "fastsafetensors", "runai", "instanttensor", "instanttensor-buffered", "prestage", "prestage-verified",
)  # fmt: skip
_BY_STATE_TO_DEVICE: dict[str, tuple[str, ...]] = {"hot": (*_TO_DEVICE, PINNED), "cold": (*_TO_DEVICE, *RAW)}
_NEEDS = {"fastsafetensors": "fastsafetensors", "runai": "runai_model_streamer"}
"""Rivals that are no dependency, and the module of each; all know torch only."""
_NEEDS_TO_DEVICE = {**_NEEDS, "instanttensor": "instanttensor", "instanttensor-buffered": "instanttensor"}
READ_PAST_THE_CACHE = ("fastsafetensors", "runai", "instanttensor")
"""Also what is hot."""
_MAP_WHAT_IS_HOT = {"pt": ("safetensors", "prestage", "prestage-verified"), "np": ("prestage", "prestage-verified")}
"""By framework: safetensors copies for numpy. Memory that is handed over for nothing pushes hot files out."""


@dataclass(frozen=True, slots=True)
class LoadJob:
    """What to measure."""

    files: tuple[Path, ...]
    framework: str
    """"pt" or "np"."""
    states: tuple[str, ...]
    loaders: frozenset[str] | None
    """None: all that are here."""
    rounds: int
    seed: int
    ranks: int = 1
    """Above 1: that many processes load the same files cold at the same time, and nothing else is measured."""
    device: str = CPU
    """"cpu" or "cuda:N"."""

    @property
    def on_device(self) -> bool:
        """Whether tensors end on a GPU."""
        return self.device != CPU

    def variants(self) -> tuple[list[tuple[str, str]], dict[str, str]]:
        """Loaders with their states, and why others are not run. Raises: Misconfigured: none is left."""
        if self.ranks > 1:
            return [("prestage-shared", "cold"), ("safetensors", "cold")], {}
        by_state = _BY_STATE_TO_DEVICE if self.on_device else _BY_STATE
        known = {variant for state in self.states for variant in by_state[state]}
        if unknown := sorted((self.loaders or known) - known):
            raise Misconfigured(
                f"--loaders {unknown[0]!r} is none of {', '.join(self.states)}", hint=f"say some of {', '.join(sorted(known))}"
            )
        not_run = {}
        for name, module in (_NEEDS_TO_DEVICE if self.on_device else _NEEDS).items():
            if self.framework == "np":
                not_run[name] = "knows torch only"
            elif not importlib.util.find_spec(module):
                not_run[name] = f"{module} is not installed"
        found = [
            (variant, state)
            for state in self.states
            for variant in by_state[state]
            if variant not in not_run and (self.loaders is None or variant in self.loaders)
        ]
        if not found:
            raise Misconfigured("none of these loaders can run here", hint="see `prestage bench load --help`")
        return found, not_run

    def takes_no_memory(self, variant: str, state: str) -> bool:
        """But what the bench itself needs: for bytes that it returns."""
        mapped = state == "hot" and variant in _MAP_WHAT_IS_HOT[self.framework]
        if self.on_device:
            return variant != "runai"  # it has the whole model in host memory first
        return variant in RETURN_NOTHING or self.ranks > 1 or mapped


def device_named(name: str) -> str:
    """ "cpu" or "cuda:N". Raises: Misconfigured"""
    if name == CPU:
        return name
    if not re.fullmatch(r"cuda(:[0-9]+)?", name):
        raise Misconfigured(f"--device {name!r} is none that is measured", hint='say "cpu", "cuda" or "cuda:N"')
    return f"cuda:{int(name.partition(':')[2] or 0)}"


def states_of(device: str, asked: tuple[str, ...], ranks: int) -> tuple[str, ...]:
    """Those that were asked for; without any, all that there are. Raises: Misconfigured: not to a device."""
    if device == CPU:
        return asked or STATES
    if ranks > 1:
        raise Misconfigured(f"--ranks is of loads to memory, not to {device}", hint="leave out --ranks or --device")
    for state in asked:
        if state not in _BY_STATE_TO_DEVICE:
            raise Misconfigured(f"--state {state} is of loads to memory, not to {device}", hint="say --state hot or --state cold")
    return asked or tuple(_BY_STATE_TO_DEVICE)


def check_device(device: str, count: int) -> None:
    """Of `count` devices that torch sees. Raises: Misconfigured: it is none of them."""
    if not count:
        raise Misconfigured(
            f"--device {device}: torch sees no CUDA device here", hint="it needs a GPU, its driver and a torch built for CUDA"
        )
    if int(device.partition(":")[2]) >= count:
        raise Misconfigured(f"--device {device}: torch sees {count} here, from cuda:0 on", hint="name one of them")
