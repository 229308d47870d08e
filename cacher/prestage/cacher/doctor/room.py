"""Room on the store's file system against what the kubelet tolerates. Pure.

The kubelet evicts pods from a node on which less is free than evictionHard says, by default nodefs.available<10 %,
nodefs.inodesFree<5 %, imagefs.available<15 %. A store that shares that file system must leave more than that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from prestage.cacher.doctor.facts import RoomFacts
from prestage.cacher.doctor.findings import Finding, error, note, ok, warning
from prestage.cacher.quantities import human_bytes

DEFAULTS: Mapping[str, str] = {"nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%"}
"""kubelet, pkg/kubelet/apis/config/v1beta1/defaults_linux.go."""
_SIGNAL = re.compile(
    r"\s+[\"']?((?:nodefs|imagefs|containerfs)\.(?:available|inodesFree))[\"']?\s*:\s*[\"']?([^\"'#\s]+)[\"']?\s*(?:#.*)?"
)
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(%|[KMGT]i?)?")
_UNITS = {None: 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def eviction_hard(config: str) -> dict[str, str] | None:
    """What a kubelet's configuration (YAML as it is written by hand and by installers, or JSON) says; None: nothing."""
    try:
        document = json.loads(config)
        found = document.get("evictionHard") if isinstance(document, dict) else None
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else None
    except (ValueError, RecursionError):
        pass
    lines = iter(config.splitlines())
    if not any(re.fullmatch(r"evictionHard\s*:\s*(#.*)?", line) for line in lines):
        return None
    said = dict[str, str]()
    for line in lines:
        if line.strip() and not line.startswith((" ", "\t", "#")):
            break
        if row := _SIGNAL.fullmatch(line):
            said[row.group(1)] = row.group(2)
    return said


def threshold(text: str, total: int) -> int | None:
    """A percentage of `total`, or a quantity; None for what is neither."""
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        return None
    number, unit = float(found.group(1)), found.group(2)
    return int(total * number / 100) if unit == "%" else int(number * _UNITS[unit])


def room_findings(room: RoomFacts) -> Iterator[Finding]:
    """What is free, what the kubelet wants free, and what follows for the budget."""
    text = f"{human_bytes(room.free_bytes)} free of {human_bytes(room.total_bytes)}"
    if room.total_bytes and room.free_bytes <= room.margin_bytes:
        do = "free some, or give a larger disk"
        yield error("room", f"{text}: not more than the margin of {human_bytes(room.margin_bytes)}", do, "full")
    else:
        yield ok("room", text)
    if room.inodes and room.free_inodes * 20 < room.inodes:
        yield warning(
            "inodes", f"{room.free_inodes} of {room.inodes} inodes free", "remove small files: the kubelet evicts at 5 %"
        )
    if not room.shares:
        yield ok("kubelet", "does not watch this file system")
        return
    yield from _against_kubelet(room)


def _against_kubelet(room: RoomFacts) -> Iterator[Finding]:
    rules = {**DEFAULTS, **room.thresholds} if room.thresholds_from is None else room.thresholds
    wanted = {f"{name}.available": rules.get(f"{name}.available", "") for name in room.shares}
    limits = {name: limit for name, rule in wanted.items() if (limit := threshold(rule, room.total_bytes)) is not None}
    if not limits:
        yield note("kubelet", f"watches this file system, but evicts at nothing here ({room.thresholds_from})")
        return
    name = max(limits, key=lambda signal: limits[signal])
    said = f"the kubelet evicts pods below {wanted[name]} free here ({name}, {room.thresholds_from or 'its default'})"
    budget = max(0, room.total_bytes - 2 * limits[name] - (room.total_bytes - room.free_bytes))
    if room.free_bytes <= limits[name]:
        yield error("kubelet", f"{said}: that is now", "free room, or put the store on a disk of its own", "full")
    elif room.margin_bytes < limits[name]:
        do = f"give a --budget of what the store holds now and at most {human_bytes(budget)} more, or a disk of its own"
        yield warning("kubelet", f"{said}, a store without a budget fills up to {human_bytes(room.margin_bytes)}", do)
    else:
        yield ok("kubelet", said)
