"""What many schedules cost a plan, by hand: `PYTHONPATH=tests python -m planning.declared` (CPU time; a minute)."""

from __future__ import annotations

import datetime
import time

from planning.fleet import GIB, Fleet, fleet
from planning.objects import artifact, head, line, schedule, staged_model

from prestage.control.demand.collecting import Collector
from prestage.kube.ports import Object
from prestage.kube.resources import ARTIFACTS, STAGED_MODELS, STAGING_SCHEDULES

NOW = datetime.datetime(2026, 11, 26, 7, 0, tzinfo=datetime.UTC).timestamp()


def with_schedules(nodes: int, count: int) -> Fleet:
    """Each selects all nodes, for four copies."""
    made = fleet(nodes=nodes, templates=50, replicas=10, waiting=0.5)
    where = {"selector": {"matchLabels": {}}, "count": 4}
    windows = [{"name": "d", "readySchedule": f"{minute} 8 * * *", "duration": "1h"} for minute in range(60)]
    several = [schedule("s", window, nodes=where) for window in windows]
    objects: list[Object] = [
        {**several[number % 60], "metadata": {**head(f"s{number:06}"), "generation": 1}} for number in range(count)
    ]
    made.mirrors[STAGING_SCHEDULES].replace(objects)
    made.mirrors[STAGED_MODELS].replace([staged_model()])
    known = artifact("a", line("llama-uid", "1", "model", "ref:llama"), size=16 * GIB)
    made.mirrors[ARTIFACTS].replace([*made.mirrors[ARTIFACTS], known])
    return made


def main() -> None:
    """A table."""
    for nodes, count in ((500, 500), (3000, 500), (500, 100_000)):
        made, collector, took_s = with_schedules(nodes, count), Collector(), list[float]()
        for turn in range(5):
            began_s = time.process_time()
            collector.collect(made.mirrors, now=NOW + turn)
            took_s.append(time.process_time() - began_s)
        print(f"{count:7} schedules, {nodes} nodes: first {took_s[0]:.2f} s, then {max(took_s[1:]):.2f} s of CPU a plan")


if __name__ == "__main__":
    main()
