"""The slow tier: ten minutes of `make soak`, five hundred of `make cycles`, an agent killed again and again."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from agents import Agent
from agents.cycles import cycles
from agents.soak import soak
from commands import Prestage, Result

from prestage.cacher.digests import PIECE_BYTES
from servers import faults
from servers.answers import Request
from servers.hostile import Hostile

KILLS = 8
REFS = 6
HELD = "/held"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_thousands_of_stages_and_evicts_leave_nothing_growing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Beside the rest of the slow tier (tests/lanes.py): its clients rest, and leave the others half a core and more."""
    run = soak(tmp_path, seconds=float(os.environ.get("SOAK_S", "600")), rest_s=0.15)
    record_property("growth", run.table())
    assert run.ended.total() > 1000, run.ended


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_hundred_artifacts_none_twice_leave_nothing_growing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    run = cycles(tmp_path, count=int(os.environ.get("CYCLES", "500")))
    record_property("growth", run.growth.table())


class Verbs:
    """What four people type, at random; what each command may end with."""

    def __init__(self, prestage: Prestage, origin: Hostile) -> None:
        self._prestage, self._origin = prestage, origin
        self.ended: Counter[tuple[str, int]] = Counter()
        self.over = threading.Event()
        self._lock = threading.Lock()

    def work(self, seed: int) -> None:
        dice = random.Random(seed)
        verbs: list[Callable[[str], list[str]]] = [
            lambda ref: ["stage", ref],
            lambda ref: ["stage", ref, "--json"],
            lambda ref: ["stage", ref],
            lambda ref: ["evict", ref],
            lambda ref: ["pin", ref],
            lambda ref: ["unpin", ref],
            lambda ref: ["path", ref, "--hold", "5s"],
            lambda ref: ["run", ref, "--", "true"],
            lambda ref: ["verify"],
            lambda ref: ["why", ref],
            lambda ref: ["pause"],
            lambda ref: ["resume"],
            lambda ref: ["ls"],
        ]
        while not self.over.is_set():
            ref = self._origin.url(f"/{dice.randrange(REFS)}")
            words = dice.choice(verbs)(ref)
            if words == ["pause"]:
                self._do(words)
                while self._do(["resume"]).code != 0:  # a pause outlives the agent: whoever paused sees to it that it ends
                    time.sleep(0.1)
            else:
                self._do(words)
            assert self._prestage("evict", self._origin.url(HELD)).code in (6, 8), "what is pinned was evicted"

    def _do(self, words: list[str]) -> Result:
        result = self._prestage(*words)
        with self._lock:
            self.ended[words[0], result.code] += 1
        assert result.code in (0, 3, 6, 8), (words, result)
        return result


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_moment_of_any_verb_it_comes_back_whole(tmp_path: Path) -> None:
    dice = random.Random(3)
    contents = {f"/{number}": dice.randbytes(dice.choice([70_000, 3_000_000, PIECE_BYTES + 5])) for number in range(REFS)}
    contents[HELD] = dice.randbytes(100_000)
    with Hostile(contents) as origin, Agent(tmp_path / "store") as agent:

        def slowly(request: Request) -> faults.Fault | None:
            return faults.Drip(8e6) if request.method == "GET" else None

        assert agent.prestage("stage", origin.url(HELD)).code == 0
        assert agent.prestage("pin", origin.url(HELD)).code == 0
        origin.choose = slowly
        verbs = Verbs(agent.prestage, origin)
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                verbs.work(seed)
            except BaseException as exc:  # noqa: BLE001 - told by the test
                failures.append(exc)

        clients = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for client in clients:
            client.start()
        for _ in range(KILLS):
            time.sleep(dice.uniform(0.2, 4.0))
            agent.kill()
            agent.start()
        verbs.over.set()
        for client in clients:
            client.join(200)
        assert failures == [], failures
        assert_whole(agent, origin, contents)
    assert verbs.ended["stage", 0] > 4, verbs.ended


def assert_whole(agent: Agent, origin: Hostile, contents: dict[str, bytes]) -> None:
    """Nothing wrong, nothing left over, and everything can be had."""
    origin.choose = lambda request: None
    assert agent.prestage("resume").code == 0
    assert agent.prestage("verify").code == 0
    for name, data in contents.items():
        assert agent.prestage("stage", origin.url(name)).code == 0
        path = Path(agent.prestage("path", origin.url(name)).out.strip())
        assert (path / name[1:]).read_bytes() == data
    assert agent.prestage("verify").code == 0
    assert list((agent.root / "ingest").iterdir()) == []
    assert list((agent.root / "wishes").iterdir()) == []
    assert list((agent.root / "quarantine").iterdir()) == []
    assert agent.prestage("evict", origin.url(HELD)).code == 6
    assert agent.ask("GET", "/v1/status").good["warnings"] == []
