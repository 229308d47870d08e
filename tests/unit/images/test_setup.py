"""What is asked of containerd before anything else, while its plugins are still coming up, or are off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from google.protobuf.message import Message

from prestage.cacher.errors import PrestageError, Unavailable
from prestage.images.containerd.channel import Channel, NotServed
from prestage.images.containerd.setup import Setup, read_setup
from prestage.wire import cri_pb2 as cri
from prestage.wire.containerd_pb2 import Plugin, PluginsAnswer

ROOT = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"
CONTENT_ROOT = "/var/lib/containerd/io.containerd.content.v1.content"


class Scripted(Channel):
    """Answers as containerd does; where images lie, first with these errors."""

    def __init__(self, *errors: PrestageError) -> None:
        super().__init__(Path("/nowhere"))
        self._errors = list(errors)

    async def call(  # type: ignore[override]  # of all messages, those that are asked for here
        self, method: str, request: Message, answer: type[Message], *, lease: str | None = None, timeout_s: float = 20.0
    ) -> Message:
        if method.endswith("/Plugins"):
            content = Plugin(type="io.containerd.content.v1", id="content", exports={"root": CONTENT_ROOT})
            return PluginsAnswer(plugins=[content, Plugin(type="io.containerd.snapshotter.v1", id="overlayfs")])
        if method.endswith("/ImageFsInfo"):
            if self._errors:
                raise self._errors.pop(0)
            return cri.ImageFsInfoAnswer(image_filesystems=[cri.FilesystemUsage(fs_id=cri.FilesystemIdentifier(mountpoint=ROOT))])
        return cri.StatusAnswer()


def read(*errors: PrestageError) -> Setup:
    return asyncio.run(read_setup(Scripted(*errors), "v1.7.28", None))


def test_where_images_lie_is_asked_again_while_the_cri_plugin_is_not_ready() -> None:
    assert read(Unavailable("server is not initialized yet", hint="")).image_root == ROOT


def test_a_cri_plugin_that_is_off_says_nothing_but_where_blobs_lie_is_known() -> None:
    setup = read(NotServed("unknown service", hint=""))
    assert (setup.image_root, setup.pulls_use, setup.content_root) == ("", "", CONTENT_ROOT)
    assert setup.snapshotters == ("overlayfs",)


@pytest.mark.parametrize(
    ("made", "is_there"),
    [
        ("", False),
        ("own/overlayfs", False),
        ("io.containerd.metadata.v1.bolt", True),
        ("io.containerd.content.v1.content", True),
    ],
)
def test_the_folder_of_blobs_is_here_where_containerds_own_is(made: str, is_there: bool, tmp_path: Path) -> None:
    """Wherever snapshots lie: a snapshotter may have a `root_path` of its own."""
    (tmp_path / made).mkdir(parents=True, exist_ok=True)
    content = tmp_path / "io.containerd.content.v1.content"
    setup = Setup("v1.7.28", "overlayfs", "", ("overlayfs",), (), None, f"{tmp_path}/own/overlayfs", str(content))
    assert setup.content_folder == (content if is_there else None)


def test_nothing_is_put_where_containerd_does_not_say(tmp_path: Path) -> None:
    setup = Setup("v1.7.28", "overlayfs", "overlayfs", ("overlayfs",), (), None, str(tmp_path))
    assert setup.content_folder is None
