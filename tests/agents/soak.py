"""Hours of small artifacts coming and going through one agent, with faults: nothing may grow.

    make soak                 two hours; SOAK_S=600 for ten minutes; the slow tier's ten minutes rest between verbs
    python -m agents.soak     the same, with cacher and tests on PYTHONPATH

Four clients stage, leave, hold, evict, resolve and ask why, at random by a seed; the origin fails one request in twenty. Sampled
all along and compared with what it was after the warm-up: memory, descriptors, threads, the store's inodes, wishes. At the end
everything is evicted: the store is as small as it was, verifies clean, and the agent ends in an orderly way.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agents import Agent, wait_for
from agents.growth import Growth
from servers import faults
from servers.answers import Request
from servers.hostile import Hostile

CLIENTS = 4
OBJECTS = 300
BUDGET = "4M"
"""A third of all objects fits: the rest is evicted to make room."""
SAMPLES = 60
SPARES = {"rss_mb": 4.0, "descriptors": 8, "threads": 8, "inodes": 300, "wishes": 8}
"""What a look may happen to catch in work."""
FAULTY = 0.05
FAULTS: Sequence[faults.Fault] = (
    faults.Cut(after=100),
    faults.Cut(after=-1),
    faults.Reset(),
    faults.Garbage(),
    faults.Status(503, "0"),
    faults.Status(429),
    faults.Status(404),
    faults.Flip(at=7),
)
EXPECTED = {"done", "busy", "full", "unavailable", "miss", "left", "corrupt"}
"""How a stage may end here; a `bug` may not."""


class Soak:
    """One run over `seconds`, by the dice of `seed`; a client rests `rest_s` between two verbs, on average."""

    def __init__(self, agent: Agent, origin: Hostile, *, seconds: float, seed: int, rest_s: float) -> None:
        self.agent, self.origin, self.seconds, self._rest_s = agent, origin, seconds, rest_s
        self.ended: Counter[str] = Counter()
        self.growth = Growth(agent)
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._began = time.monotonic()
        for number in range(OBJECTS):
            size = self._dice.randint(1, 80_000)
            origin.put(f"/{number}", self._dice.randbytes(size))

    def run(self) -> None:
        """To the end of its time; raises what a client found wrong."""
        self.origin.choose = self._fault
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._client, random.Random(self._dice.random())) for _ in range(CLIENTS)]
            while not self._is_over:
                self.growth.look(self.ended.total())
                if failed := [client for client in clients if client.done()]:
                    failed[0].result()
                time.sleep(self.seconds / SAMPLES)
            for client in clients:
                client.result()
        self.growth.look(self.ended.total())

    @property
    def _is_over(self) -> bool:
        return time.monotonic() - self._began > self.seconds

    def _fault(self, request: Request) -> faults.Fault | None:
        with self._lock:
            faulty = request.method == "GET" and self._dice.random() < FAULTY
            return self._dice.choice(FAULTS) if faulty else None

    def _client(self, dice: random.Random) -> None:
        verbs = [self._stage] * 10 + [self._evict] * 5 + [self._hold, self._keep, self._leave, self._look, self._pause]
        while not self._is_over:
            dice.choice(verbs)(dice, self.origin.url(f"/{dice.randrange(OBJECTS)}"))
            time.sleep(2 * self._rest_s * dice.random())

    def _count(self, how: str) -> None:
        assert how in EXPECTED, how
        with self._lock:
            self.ended[how] += 1

    def _stage(self, dice: random.Random, ref: str) -> None:
        last = self.agent.stage(ref, priority=dice.choice(["waiting-pod", "declared", "follow-on"]))
        self._count(str(last.get("kind", "done")))

    def _keep(self, _: random.Random, ref: str) -> None:
        answer = self.agent.ask("POST", "/v1/stages", {"ref": ref, "keep": True})
        assert answer.status in (200, 507), answer

    def _leave(self, _: random.Random, ref: str) -> None:
        with self.agent.stream("POST", "/v1/stage", {"ref": ref}) as events:
            events.until("stage")
        self._count("left")

    def _evict(self, _: random.Random, ref: str) -> None:
        answer = self.agent.ask("POST", "/v1/evict", {"ref": ref})
        assert answer.status in (200, 404, 423), answer

    def _hold(self, dice: random.Random, ref: str) -> None:
        answer = self.agent.ask("POST", "/v1/holds", {"ref": ref, "ttl_s": 5, "kind": dice.choice(["ttl", "run"])})
        assert answer.status in (200, 404), answer
        if answer.status == 200:
            assert (Path(answer.body["path"])).is_dir(), "held and not there"
            artifact, hold = answer.body["artifact"], answer.body["hold"]
            assert self.agent.ask("DELETE", f"/v1/holds/{artifact}/{hold}").status == 204

    def _look(self, _: random.Random, ref: str) -> None:
        assert self.agent.ask("GET", "/v1/resolve", query={"ref": ref}).status in (200, 404, 409)
        assert len(self.agent.ask("GET", "/v1/explain", query={"ref": ref}).good["history"]) <= 50

    def _pause(self, dice: random.Random, _: str) -> None:
        if dice.random() < 0.05:
            assert self.agent.ask("POST", "/v1/pause").status == 204
            assert self.agent.ask("POST", "/v1/resume").status == 204

    # -- what must be so

    def check_growth(self) -> None:
        """Nothing has grown, stages that ended are forgotten, and most went well."""
        self.growth.check(SPARES)
        assert max(sample.stages for sample in self.growth.samples) <= 100 + 80, self.table()
        assert self.ended["done"] > self.ended.total() / 2, self.ended

    def check_end(self) -> None:
        """Everything let go of: nothing is left, nothing is damaged, nobody is waited for."""
        agent = self.agent
        self.origin.choose = lambda request: None
        wait_for(lambda: agent.ask("GET", "/v1/status").good["stages"] == [], timeout_s=400)
        with agent.stream("POST", "/v1/verify", {}) as events:
            assert events.last()["bad"] == []
        for row in agent.ask("GET", "/v1/artifacts").good:
            assert agent.ask("POST", "/v1/evict", {"ref": row["artifact"]}).status == 200, row
        left = [
            path.relative_to(agent.root)
            for folder in ("ingest", "manifests", "refs", "views", "wishes")
            for path in (agent.root / folder).iterdir()
        ]
        left += [path.relative_to(agent.root) for path in (agent.root / "blobs").glob("*/*")]
        assert left == [], left[:10]

    def table(self) -> str:
        """Samples, and how the stages ended."""
        return f"{self.growth.table()}\nstages by end: {dict(self.ended.most_common())}"


def soak(folder: Path, *, seconds: float, seed: int = 1, rest_s: float = 0.0) -> Soak:
    """Run and check; the table is in what is returned."""
    with Hostile() as origin, Agent(folder / "store", "--budget", BUDGET) as agent:
        run = Soak(agent, origin, seconds=seconds, seed=seed, rest_s=rest_s)
        run.run()
        run.check_end()
        run.check_growth()
    return run


def main() -> None:
    """SOAK_S seconds (default 7200), SOAK_SEED (default 1), in a folder of its own under SOAK_DIR (default here)."""
    seconds, seed = float(os.environ.get("SOAK_S", "7200")), int(os.environ.get("SOAK_SEED", "1"))
    print(f"{CLIENTS} clients, {OBJECTS} objects, {seconds:.0f} s, seed {seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".soak-", dir=os.environ.get("SOAK_DIR", ".")) as folder:
        print(soak(Path(folder).absolute(), seconds=seconds, seed=seed).table())


if __name__ == "__main__":
    main()
