"""How this containerd is set up: which snapshotter pulls use, whether it drops layers, which snapshotters are somebody else's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prestage.cacher.errors import Misconfigured, PrestageError
from prestage.images.containerd.channel import Channel, NotServed
from prestage.wire import cri_pb2 as cri
from prestage.wire.containerd_pb2 import PluginsAnswer, PluginsRequest

_PLUGINS = "/containerd.services.introspection.v1.Introspection/Plugins"
_STATUS, _FS = "/runtime.v1.RuntimeService/Status", "/runtime.v1.ImageService/ImageFsInfo"
SNAPSHOTTERS = "io.containerd.snapshotter.v1"
DEFAULT = "overlayfs"
_FOLDER = f"{SNAPSHOTTERS}."
_CONTENTS = "io.containerd.content.v1"
_DATABASE = "io.containerd.metadata.v1.bolt"
"""Beside the blobs, from containerd's first start on."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What was found."""

    version: str
    snapshotter: str
    """Which is staged into."""
    pulls_use: str
    """Which the kubelet's pulls use; empty: it cannot be told (the CRI plugin is off)."""
    snapshotters: tuple[str, ...]
    """Those that work here."""
    proxied: tuple[str, ...]
    """Those of other daemons: stargz, SOCI, nydus."""
    discards_layers: bool | None
    """`discard_unpacked_layers`; None: it does not say (2.x)."""
    image_root: str
    """Where snapshots lie, as containerd sees it; empty: it does not say."""
    content_root: str = ""
    """The same of blobs: elsewhere, where the snapshotter has a `root_path` of its own."""

    @property
    def is_left_alone(self) -> bool:
        """Another daemon brings the layers that pulls use: nothing that is staged here would reach them."""
        return self.snapshotter in self.proxied or self.pulls_use in self.proxied

    @property
    def content_folder(self) -> Path | None:
        """Where its blobs lie, if that is here too. Before the first blob of its life containerd has not made it."""
        folder = Path(self.content_root)
        return folder if self.content_root and (folder.is_dir() or (folder.parent / _DATABASE).is_dir()) else None


async def read_setup(channel: Channel, version: str, snapshotter: str | None) -> Setup:
    """Ask for it.

    Raises:
        Misconfigured: `snapshotter` is not there.
        PrestageError: as the channel says; its CRI plugin does not get ready.
    """
    wanted = PluginsRequest(filters=[f"type=={SNAPSHOTTERS}", f"type=={_CONTENTS}"])
    answered = (await channel.ask(_PLUGINS, wanted, PluginsAnswer)).plugins
    plugins = [plugin for plugin in answered if plugin.type == SNAPSHOTTERS]
    content_root = next(
        (plugin.exports["root"] for plugin in answered if plugin.type == _CONTENTS and "root" in plugin.exports), ""
    )
    working = tuple(sorted(plugin.id for plugin in plugins if not plugin.init_err.code and not plugin.init_err.message))
    proxied = tuple(sorted(plugin.id for plugin in plugins if "address" in plugin.exports))
    root = await _image_root(channel)
    in_use = _snapshotter_of(root)
    chosen = snapshotter or in_use or DEFAULT
    if chosen not in working:
        raise Misconfigured(f"containerd has no snapshotter {chosen!r}", hint=f"it has {', '.join(working) or 'none'}")
    return Setup(version, chosen, in_use, working, proxied, await _discards(channel), root, content_root)


def _snapshotter_of(root: str) -> str:
    """containerd keeps a snapshotter's files in a folder of its name."""
    return next((part.removeprefix(_FOLDER) for part in PurePosixPath(root).parts if part.startswith(_FOLDER)), "")


async def _image_root(channel: Channel) -> str:
    """Asked again while its CRI plugin is not ready: that is some time after containerd listens."""
    try:
        answer = await channel.ask(_FS, cri.ImageFsInfoRequest(), cri.ImageFsInfoAnswer)
    except NotServed:
        return ""
    return next((one.fs_id.mountpoint for one in answer.image_filesystems), "")


async def _discards(channel: Channel) -> bool | None:
    try:
        answer = await channel.call(_STATUS, cri.StatusRequest(verbose=True), cri.StatusAnswer)
        config = json.loads(answer.info.get("config", "{}"))
    except (PrestageError, ValueError):
        return None
    runtime = config.get("containerd") if isinstance(config, dict) else None
    stated = runtime.get("discardUnpackedLayers") if isinstance(runtime, dict) else None
    return stated if isinstance(stated, bool) else None
