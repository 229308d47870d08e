"""A pod's volume: authorised, its artifacts awaited, held and put together, bound. And let go of.

    publish     bound for this pod already ─▶ OK, nobody is asked
                pod's token ─▶ grants ─▶ tree (hold first) ─▶ bind ─▶ look that the tree is still there ─▶ OK
                                           └─ not staged: wait in the call, at top priority; say how it goes just before its end
    unpublish   unmount ─▶ remove the target ─▶ drop the tree; an agent that is away finds it dropped later (settling.py)

Both are idempotent, and one at a time for a target.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prestage.api.annotations import Layout
from prestage.api.brokerage import GrantedMount, MountsAnswer
from prestage.cacher.agent.logs import log
from prestage.cacher.agent.messages import TreePart, TreeRequest, TreeView
from prestage.cacher.ending import to_its_end
from prestage.cacher.errors import Busy, Corrupt, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.store.composing import RECORD
from prestage.node.csi import binding
from prestage.node.csi.asking import Asked
from prestage.node.csi.waiting import Agent as StagingAgent
from prestage.node.csi.waiting import Staging, Stagings, ended

AGAIN_S = 1.0


class Agent(StagingAgent, Protocol):
    """The part of `AgentClient` that is used here."""

    async def compose(self, request: TreeRequest) -> TreeView:
        """The tree of a mount."""
        ...

    async def trees(self) -> list[TreeView]:
        """Those of all mounts."""
        ...

    async def drop(self, hold: str) -> None:
        """Let go."""
        ...


class Authorises(Protocol):
    """`Authoriser`."""

    async def authorise(self, asked: Asked) -> MountsAnswer:
        """The grants, or why not."""
        ...


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock
    users: int = 0


class Publisher:
    """See the module. On the loop."""

    def __init__(self, agent: Agent, authoriser: Authorises, stagings: Stagings) -> None:
        self._agent, self._authoriser, self._stagings = agent, authoriser, stagings
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def turn(self, target: str) -> AsyncIterator[None]:
        """What is done at a target, one at a time."""
        turn = self._turns.setdefault(target, _Turn(asyncio.Lock()))
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                self._turns.pop(target, None)

    async def publish(self, target: Path, asked: Asked, ends_s: float) -> None:
        """Returns once `target` shows what was asked. `ends_s`: on the loop's clock, when to say how far it is.

        Raises:
            Unavailable: not yet; says how it goes.
            PrestageError: why not.
        """
        async with self.turn(str(target)):
            began = time.monotonic()
            if await asyncio.to_thread(self._is_published, target, asked.pod.uid):
                return
            answer = await self._authorised(asked, ends_s)
            tree = await self._tree(target, asked, answer.models, ends_s)
            await to_its_end(asyncio.to_thread(self._bind, tree, target))
            for granted in answer.models:
                log(
                    "mounted",
                    fields={
                        "namespace": asked.pod.namespace,
                        "service_account": asked.pod.service_account,
                        "pod": asked.pod.uid,
                        "artifact": granted.artifact,
                        "revision": granted.revision,
                        "rule": granted.rule,
                        "seconds": round(time.monotonic() - began, 3),
                    },
                )

    def _is_published(self, target: Path, pod: str) -> bool:
        """For that pod. What we bound for another, or what is gone, is taken away; what is not ours stays."""
        there = binding.bound(target)
        if there is None:
            return False
        if not there.is_ours:
            raise Misconfigured(f"something that is not ours is mounted at {target}", hint="unmount it")
        if there.is_whole and pod_of(target) == pod:
            for path in there.writable():
                binding.seal(path)
            return True
        binding.release(target)
        return False

    def _bind(self, tree: TreeView, target: Path) -> None:
        binding.show(Path(tree.path), Path(tree.own) if tree.own else None, target)
        if pod_of(target) != tree.pod:  # it was dropped in between: an empty directory is worse than none
            binding.release(target)
            raise Unavailable("the tree went while it was bound", hint="the kubelet asks again")

    async def _authorised(self, asked: Asked, ends_s: float) -> MountsAnswer:
        while True:
            try:
                async with asyncio.timeout_at(ends_s):
                    return await self._authoriser.authorise(asked)
            except TimeoutError:
                raise Unavailable("nobody says whether this pod may mount it", hint="the kubelet asks again") from None
            except (Unavailable, Busy):
                if asyncio.get_running_loop().time() + AGAIN_S >= ends_s:
                    raise
            await asyncio.sleep(AGAIN_S)

    async def _tree(self, target: Path, asked: Asked, granted: list[GrantedMount], ends_s: float) -> TreeView:
        request = tree_request(target, asked, granted)
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await self._agent.compose(request)
            except (NotFound, Corrupt):
                await self._staged(str(target), granted, ends_s)
            except (Unavailable, Busy):
                if loop.time() + AGAIN_S >= ends_s:
                    raise
                await asyncio.sleep(AGAIN_S)
            if loop.time() >= ends_s:
                raise Unavailable("it was staged, and is gone again", hint="the kubelet asks again")

    async def _staged(self, target: str, granted: list[GrantedMount], ends_s: float) -> None:
        """Wait for all of them."""
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            wanted = {one.alias: stack.enter_context(self._stagings.following(one.artifact)) for one in granted}
            for staging in wanted.values():
                if not await ended(staging, max(0.0, ends_s - loop.time()), who=target):
                    raise Unavailable(_said(wanted))

    async def unpublish(self, target: Path) -> None:
        """Idempotent.

        Raises:
            Busy, Unavailable: it cannot be unmounted.
        """
        async with self.turn(str(target)):
            there = await asyncio.to_thread(binding.bound, target)
            if there is not None and not there.is_ours:
                raise Misconfigured(f"something that is not ours is mounted at {target}", hint="unmount it")
            await to_its_end(asyncio.to_thread(binding.release, target))
            try:
                holds = {tree.hold for tree in await self._agent.trees() if tree.target == str(target)}
                for hold in holds | ({there.hold} if there is not None and there.hold is not None else set()):
                    await self._agent.drop(hold)
            except PrestageError as exc:
                log("tree_not_dropped", fields={"target": str(target), "message": exc.message})  # settling.py will


def tree_request(target: Path, asked: Asked, granted: list[GrantedMount]) -> TreeRequest:
    """What the agent is to put together. Pure.

    Raises:
        Misconfigured: a layout that these models do not have.
    """
    if asked.layout is Layout.HUGGING_FACE and all(one.repo is None for one in granted):
        raise Misconfigured("no model of this volume came from a hub", hint="write prestage.dev/layout: Directory")
    parts = [TreePart(one.alias, one.artifact, one.repo or "", one.revision or "") for one in granted]
    is_flat = asked.layout is Layout.FLAT
    return TreeRequest(parts, asked.pod.uid, str(target), asked.mount_path, is_flat)


def pod_of(target: Path) -> str | None:
    """Whose tree is shown there, by its own account."""
    try:
        return str(json.loads((target / RECORD).read_bytes())["mount"]["pod"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _said(wanted: dict[str, Staging]) -> str:
    return "; ".join(f"{alias}: {staging.progress}" for alias, staging in _unfinished(wanted))


def _unfinished(wanted: dict[str, Staging]) -> Iterator[tuple[str, Staging]]:
    for alias, staging in wanted.items():
        if staging.task is None or not staging.task.done():
            yield alias, staging
