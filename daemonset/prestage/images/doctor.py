"""What a containerd's setup means for staging. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prestage.images.containerd.setup import Setup

Mark = Literal["ok", "note", "bad"]
TESTED = ((1, 6), (2, 3))
"""First and last minor version that the tests run on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    mark: Mark
    text: str


def findings(setup: Setup) -> Iterator[Finding]:
    """What to know."""
    yield _version(setup.version)
    yield _snapshotter(setup)
    for name in setup.proxied:
        yield Finding("note", f"snapshotter {name} is another daemon's: what is staged does not reach it, and it is left alone")
    if setup.discards_layers:
        yield Finding(
            "note", "discard_unpacked_layers is set: layers' blobs go once our lease ends, snapshots stay; peers cannot be served"
        )
    elif setup.discards_layers is None:
        yield Finding(
            "note", "whether it drops unpacked layers (discard_unpacked_layers) it does not say; staging works either way"
        )


def _version(version: str) -> Finding:
    found = re.match(r"v?([0-9]+)\.([0-9]+)", version)
    number = (int(found.group(1)), int(found.group(2))) if found else None
    if number is None or number < TESTED[0]:
        return Finding("bad", f"containerd {version} is older than 1.6: not tried")
    if number > TESTED[1]:
        return Finding("note", f"containerd {version} is newer than what staging was tried on (2.3)")
    return Finding("ok", f"containerd {version}")


def _snapshotter(setup: Setup) -> Finding:
    if not setup.pulls_use:
        return Finding("note", f"the CRI plugin does not answer: staged for {setup.snapshotter}, on trust that pulls use it too")
    if setup.pulls_use != setup.snapshotter:
        return Finding("bad", f"staged for {setup.snapshotter}, but pulls use {setup.pulls_use}: they will unpack again")
    if setup.snapshotter in setup.proxied:
        return Finding("bad", f"pulls use {setup.snapshotter}, a remote snapshotter: not tried")
    return Finding("ok", f"snapshotter {setup.snapshotter}, as the kubelet's pulls")
