"""How long plans take, and what they need: `PYTHONPATH=tests python -m planning.scale`. Nothing but the planner; by hand, for its
time is no test's to hang on."""

from __future__ import annotations

import dataclasses
import random
import resource
import time

from prestage.api.nodes import State
from prestage.planner.demands import Demand, Trust
from prestage.planner.nodes import Held, NodeState
from prestage.planner.plan import Rules, plan
from prestage.planner.plans import Plan
from prestage.planner.values import Use

NOW = 1_000_000.0
GB = 10**9
_SIZES = (7, 14, 28, 70, 140, 400)


def large(*, nodes: int, models: int, seed: int = 1) -> tuple[list[Demand], list[NodeState], dict[str, Use]]:
    """A fleet at work: a third of the models runs, a third has a window in the next hours, the rest was started once."""
    chance = random.Random(seed)
    names = [f"n{number:05}" for number in range(nodes)]
    zones = [frozenset(names), *(frozenset(names[first::3]) for first in range(3))]
    sizes = [chance.choice(_SIZES) * GB for _ in range(models)]
    held: dict[str, dict[str, Held]] = {name: {} for name in names}
    used = dict.fromkeys(names, 0)
    demands = list[Demand]()
    for number, size in enumerate(sizes):
        artifact, feasible = f"a{number:05}", chance.choice(zones)
        among = sorted(feasible)
        for name in chance.sample(among, min(len(among), max(1, nodes * 6 // models))):
            if used[name] + size <= 2000 * GB:
                held[name][artifact] = Held(State.WARM)
                used[name] += size
        common = Demand(f"d{number:05}", artifact, size, f"team{number % 20}", Trust.STANDING, feasible=feasible, gpus=1)
        if number % 3 == 0:
            at = dict.fromkeys(chance.sample(among, min(len(among), 3)), 1)
            demands.append(dataclasses.replace(common, trust=Trust.BOUND, at=at))
        elif number % 3 == 1:
            ready_by = NOW + chance.uniform(0, 8 * 3600)
            window = {"ready_by": ready_by, "until": ready_by + 3600, "copies": 3}
            demands.append(dataclasses.replace(common, trust=Trust.DECLARED, **window))  # type: ignore[arg-type]
        demands.append(dataclasses.replace(common, id=f"s{number:05}"))
    states = [NodeState(name, name, 2000 * GB, rate_bytes_per_s=2.5e9, used_bytes=used[name], held=held[name]) for name in names]
    uses = {f"a{number:05}": Use(chance.paretovariate(1.2), NOW, size) for number, size in enumerate(sizes)}
    return demands, states, uses


def after(nodes: list[NodeState], made: Plan) -> list[NodeState]:
    """As they are once they were told."""
    return [dataclasses.replace(node, planned={one.artifact: one for one in made.nodes[node.name].assignments}) for node in nodes]


def event(demands: list[Demand], number: int, names: list[str]) -> list[Demand]:
    """One pod more is bound."""
    one = next(demand for demand in demands[number:] if demand.trust is Trust.BOUND)
    more = dataclasses.replace(
        one, at={**one.at, names[number % len(names)]: 1}, feasible=one.feasible | {names[number % len(names)]}
    )
    return [more if demand is one else demand for demand in demands]


def main() -> None:
    """Prints."""
    for nodes, models, events in ((500, 600, 20), (5000, 2000, 3)):
        demands, states, uses = large(nodes=nodes, models=models)
        rules = Rules(peers=False, origin_bytes_per_s=40e9)
        began = time.process_time()
        made = plan(demands, states, NOW, rules=rules, uses=uses)
        first_s = time.process_time() - began
        took, changed, names = list[float](), list[int](), [node.name for node in states]
        for number in range(events):
            states = after(states, made)
            demands = event(demands, number * 7, names)
            began = time.process_time()
            again = plan(demands, states, NOW + 1 + number, rules=rules, uses=uses, before=made)
            took.append(time.process_time() - began)
            changed.append(sum(not again.nodes[name].says_what(made.nodes[name]) for name in names))
            made = again
        took.sort()
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{nodes} nodes, {models} models, {len(demands)} demands: full plan {first_s:.2f} s CPU; "
            f"an event: median {took[len(took) // 2]:.3f} s, most {took[-1]:.3f} s, changes {changed} nodes; peak RSS {rss} MiB"
        )


if __name__ == "__main__":
    main()
