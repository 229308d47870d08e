"""All probes, once, in a few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prestage.cacher.doctor.facts import Facts
from prestage.cacher.doctor.files import probe_disk, probe_files
from prestage.cacher.doctor.place import nearest, probe_place, probe_room, probe_store
from prestage.cacher.doctor.system import probe_clock, probe_links, probe_origin, probe_process, probe_proxy


def examine(root: Path, environ: Mapping[str, str], *, quick: bool = False, origin: str | None = None) -> Facts:
    """Look at everything that a stage into `root` would meet. Leaves nothing behind. `quick`: no rates are measured."""
    folder = nearest(root)
    clock, found = probe_clock(), None
    if origin is not None:
        found, clock = probe_origin(origin, environ, clock)
    return Facts(
        place=probe_place(root),
        files=probe_files(folder),
        disk=probe_disk(folder, quick=quick),
        room=probe_room(folder),
        clock=clock,
        process=probe_process(),
        links=probe_links(),
        proxy=probe_proxy(environ),
        store=probe_store(root),
        origin=found,
    )
