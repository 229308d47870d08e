"""What is done to wishes, and what must be true after any crash: the parts of `scenarios`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from prestage.cacher.store.store import Store
from prestage.cacher.store.wishes import KeptWish
from stores.making import Steps

Acks = Collection[str]

WISH = KeptWish("hf://org/name@main", ("*.safetensors",), (), 10)
LATER = replace(WISH, priority=0, is_paused=True, is_kept=False)
"""The same wish, asked for again: replaces the first."""


def act_keep_wish(store: Store, steps: Steps) -> None:
    store.wishes.keep(WISH)
    steps.ack("kept")
    store.wishes.keep(LATER)
    steps.ack("replaced")


def check_keep_wish(store: Store, acks: Acks) -> None:
    kept = list(store.wishes.all())
    if "replaced" in acks:
        assert kept == [LATER]
    elif "kept" in acks:
        assert kept in ([WISH], [LATER]), "an acknowledged wish was lost"
    else:
        assert kept in ([], [WISH])
    store.wishes.keep(LATER)
    assert list(store.wishes.all()) == [LATER]


def prepare_wish(store: Store) -> None:
    store.wishes.keep(WISH)


def act_drop_wish(store: Store, steps: Steps) -> None:
    store.wishes.drop(LATER)
    steps.ack("dropped")


def check_drop_wish(store: Store, acks: Acks) -> None:
    assert list(store.wishes.all()) in ([[]] if acks else [[WISH], []])
    store.wishes.drop(WISH)
    assert list(store.wishes.all()) == []


def act_pause(store: Store, steps: Steps) -> None:
    store.wishes.pause()
    steps.ack("paused")


def check_pause(store: Store, acks: Acks) -> None:
    assert store.wishes.are_paused or not acks
    store.wishes.pause()
    assert store.wishes.are_paused


def prepare_pause(store: Store) -> None:
    store.wishes.pause()


def act_resume(store: Store, steps: Steps) -> None:
    store.wishes.resume()
    steps.ack("resumed")


def check_resume(store: Store, acks: Acks) -> None:
    assert not (store.wishes.are_paused and acks)
    store.wishes.resume()
    assert not store.wishes.are_paused
