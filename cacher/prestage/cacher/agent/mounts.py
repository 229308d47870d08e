"""Trees of pods' mounts: composed, kept over restarts, let go of; each with a narrow socket of its own in it.

What is composed lasts until it is dropped: this process does not see the node's mounts, and whoever mounts does.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Protocol

from prestage.cacher.agent.healing import Blocking
from prestage.cacher.agent.history import History
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.messages import SocketRequest, TreePart, TreeRequest, TreeView
from prestage.cacher.agent.shown import tree_view
from prestage.cacher.digests import ArtifactId, artifact_id
from prestage.cacher.errors import NotFound, PrestageError
from prestage.cacher.store.composing import SIDE, Part
from prestage.cacher.store.holds import HoldId, Mount
from prestage.cacher.store.mounted import MountTree
from prestage.cacher.store.store import Store
from prestage.cacher.store.trees import Terms, Tree

SOCKET = "pod.sock"
"""In what is a pod's own; in a tree that is a pod's as a whole, in its `.prestage/`."""
_HOLD = re.compile(r"mount-[0-9a-f]{16}")


class NarrowSockets(Protocol):
    """Sockets for one pod each: see `narrow`."""

    async def open(self, request: SocketRequest, *, sealed: bool = False) -> None:
        """Listen; replaces one of ours at that path. `sealed`: in a folder that is not to be written to otherwise."""
        ...

    async def close_one(self, path: Path) -> None:
        """Idempotent."""
        ...


class Mounts:
    """On the loop."""

    def __init__(self, store: Store, history: History, blocking: Blocking) -> None:
        self._store, self._history, self._blocking = store, history, blocking
        self._turn = asyncio.Lock()
        self.is_ahead = False
        """Pods will come: compose what they share as soon as an artifact is staged."""
        self._preparing: set[asyncio.Task[None]] = set()
        self.sockets: NarrowSockets
        """Set by the composition root: narrow sockets answer by the very service that this belongs to."""

    def staged(self, artifact: ArtifactId) -> None:
        """What its first pod would wait for is done now, if this is a node of pods."""
        if self.is_ahead:
            task = asyncio.create_task(self._prepare(artifact), name=f"preparing {artifact}")
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)

    async def _prepare(self, artifact: ArtifactId) -> None:
        try:
            await self._blocking(lambda: self._store.mounted.prepare(artifact))
        except PrestageError as exc:  # the first pod composes it, or is told why not
            log("not_prepared", fields={"artifact": artifact, "message": exc.message})

    async def start(self) -> None:
        """Listen again for those that are mounted."""
        for found in await self._blocking(self._store.mounted.all):
            await self._listen(found.tree)

    async def all(self) -> list[TreeView]:
        """Those that are held."""
        return [tree_view(found) for found in await self._blocking(self._store.mounted.all)]

    async def compose(self, request: TreeRequest) -> TreeView:
        """Hold, and put together. Asked twice for one target: the same tree."""
        mount = Mount(request.pod, request.target, request.mount_path)

        def make() -> Tree:
            parts = [self._part(asked) for asked in request.parts]
            return self._store.compose(parts, Terms("mount", note="pod", mount=mount), is_flat=request.flat)

        async with self._turn:
            tree = await self._blocking(make)
            await self._listen(tree)
        self._history.add("mount_held", artifact=tree.parts[0].artifact, hold=tree.hold, pod=request.pod)
        return tree_view(MountTree(tree, True, 0.0))

    def _part(self, asked: TreePart) -> Part:
        artifact, repo, revision = artifact_id(asked.artifact), asked.repo or None, asked.revision or None
        return self._store.mounted.part(asked.name, artifact, repo=repo, revision=revision)

    async def drop(self, hold: str) -> None:
        """Let go. Idempotent."""
        if _HOLD.fullmatch(hold) is None:
            raise NotFound(f"{hold!r} is not the hold of a mount", hint="GET /v1/trees shows them")
        path = self._store.mounted.path(HoldId(hold))
        for socket in (path / SOCKET, path / SIDE / SOCKET):
            await self.sockets.close_one(socket)
        await self._blocking(lambda: self._store.drop_tree(HoldId(hold)))
        self._history.add("mount_dropped", hold=hold)

    async def _listen(self, tree: Tree) -> None:
        """A pod that cannot report still reads."""
        mount, artifacts = tree.plan.mount, {part.name: part.artifact for part in tree.parts}
        assert mount is not None
        folder = tree.own if tree.own is not None else tree.path / SIDE
        request = SocketRequest(str(folder / SOCKET), dict(artifacts), mount.mount_path, tree.plan.is_flat)
        try:
            await self.sockets.open(request, sealed=True)
        except (PrestageError, OSError) as exc:
            log("no_pod_socket", fields={"hold": tree.hold, "message": str(exc)})
