"""Who fetches which file: one at a time, each file once, nobody waits for ever."""

from __future__ import annotations

import random
import threading
from collections import Counter

from prestage.cacher.staging.claims import Claims
from prestage.cacher.transfer.limits import Priority


def test_what_nobody_has_is_mine_and_the_rest_is_somebodys() -> None:
    claims, urged = Claims(), list[Priority]()
    mine, theirs = claims.take(["a", "b"], urged.append)
    assert (set(mine), theirs) == ({"a", "b"}, {})
    his, not_his = claims.take(["b", "c"], lambda priority: None)
    assert (set(his), set(not_his)) == ({"c"}, {"b"})
    not_his["b"].urge(Priority.WAITING_POD)
    assert urged == [Priority.WAITING_POD]
    assert not not_his["b"].given_back.is_set()
    claims.give_back(mine)
    claims.give_back(mine)
    assert not_his["b"].given_back.is_set()
    again, _ = claims.take(["a", "b"], lambda priority: None)
    assert set(again) == {"a", "b"}
    claims.give_back(mine)  # late and idempotent: takes nothing from who has it now
    assert claims.take(["a"], lambda priority: None)[0] == {}


def test_many_who_want_overlapping_files_fetch_each_once_and_all_end() -> None:
    """As `Run._bring` does it: fetch mine, give back, only then wait for theirs."""
    claims, fetched, lock = Claims(), Counter[str](), threading.Lock()
    have: set[str] = set()

    def bring(seed: int) -> None:
        missing = random.Random(seed).sample([f"file-{number}" for number in range(12)], 7)
        while missing:
            mine, theirs = claims.take(missing, lambda priority: None)
            for name in mine:
                with lock:
                    if name not in have:
                        fetched[name] += 1
                        have.add(name)
            claims.give_back(mine)
            for claim in theirs.values():
                assert claim.given_back.wait(30), "waited for ever"
            with lock:
                missing = [name for name in theirs if name not in have]

    threads = [threading.Thread(target=bring, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert set(fetched.values()) == {1}
