"""What is damaged and held is asked for anew, each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar, cast

import pytest

from prestage.cacher.agent.feed import Feed
from prestage.cacher.agent.healing import Healer
from prestage.cacher.agent.history import History, Tally
from prestage.cacher.agent.stages import Stages
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Full
from prestage.cacher.staging import Wish
from prestage.cacher.store.store import Store

_T = TypeVar("_T")
ONE, TWO, OTHER = (ArtifactId("sha256:" + letter * 64) for letter in "123")


def test_one_that_cannot_be_asked_for_keeps_no_other_from_being_healed() -> None:
    asked = list[str]()

    async def blocking(call: Callable[[], _T]) -> _T:
        return call()

    async def ask(wish: Wish, *, keep: bool) -> None:
        asked.append(wish.ref.name)
        if ONE in wish.ref.name:
            raise Full("no room for a wish")

    affected = [SimpleNamespace(artifact=one, is_wanted=one != OTHER, paths=("a",)) for one in (ONE, OTHER, TWO)]
    store = SimpleNamespace(damage=SimpleNamespace(affected=lambda: affected), refs=lambda artifact: ())

    async def heal() -> None:
        history = History(Feed(asyncio.get_running_loop()))
        healer = Healer(cast(Store, store), cast(Stages, SimpleNamespace(ask=ask)), history, Tally(), blocking)
        await healer.heal_what_is_held()

    with pytest.raises(Full):
        asyncio.run(heal())
    assert [name[-64:] for name in asked] == ["1" * 64, "2" * 64]
