"""`prestage bench plan`: the fluid cluster by hand calculation, the traces, and that the policies are what they are called."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from prestage.bench.cli import bench
from prestage.bench.plan import derive, traces
from prestage.bench.plan.baselines import POLICIES, Reactive, cluster_of
from prestage.bench.plan.cluster import Cluster, Item, Node, Serving, evict
from prestage.bench.plan.faults import Fault, released_anew
from prestage.bench.plan.offline import feasible, served
from prestage.bench.plan.ours import Ours
from prestage.bench.plan.runs import Setting, run_one
from prestage.bench.plan.simulate import Run, Scheduler, Tally, publish_delay_s
from prestage.bench.plan.traces import Announcement, Start
from prestage.cacher.errors import Misconfigured


def finished(cluster: Cluster) -> list[tuple[str, float]]:
    """What becomes whole, and when."""
    made = list[tuple[str, float]]()

    def note(node: Node, item: Item) -> None:
        made.append((item.app, cluster.now))

    cluster.done = note
    while (then := cluster.next_done()) < math.inf:
        cluster.advance(then)
    return made


def test_what_a_pod_waits_for_goes_before_what_is_staged() -> None:
    cluster = cluster_of(1, budget_bytes=10_000, link=10.0, gpus=8)
    [node] = cluster.nodes
    cluster.add(node, "staged", 100)
    cluster.add(node, "wanted", 50).is_wanted = True
    assert finished(cluster) == [("wanted", 5.0), ("staged", 15.0)]


def test_of_one_kind_all_share_a_link_alike_and_the_origins_limit_max_min() -> None:
    cluster = Cluster([Node("fast", 10**6, 30.0, 8), Node("slow", 10**6, 5.0, 8)], origin_bytes_per_s=20.0)
    fast, slow = cluster.nodes
    cluster.add(fast, "a", 75)
    cluster.add(fast, "b", 75)
    cluster.add(slow, "c", 100)
    assert finished(cluster) == [("a", 10.0), ("b", 10.0), ("c", 20.0)]  # slow its 5, fast the other 15 in halves


def test_nothing_that_a_pod_uses_or_waits_for_is_evicted_and_never_a_part_of_what_is_needed() -> None:
    cluster = cluster_of(1, budget_bytes=100, link=10.0, gpus=8)
    [node] = cluster.nodes
    cluster.add(node, "used", 40).pods = 1
    cluster.add(node, "free", 40)
    assert not evict(cluster, node, 70, list(node.items))
    assert set(node.items) == {"used", "free"}
    assert evict(cluster, node, 60, list(node.items))
    assert (set(node.items), node.used_bytes) == ({"used"}, 40)


def test_a_link_that_serves_in_turn_goes_on_with_what_began_first() -> None:
    cluster = cluster_of(1, budget_bytes=10_000, link=10.0, gpus=8)
    cluster.serving = Serving.IN_TURN
    [node] = cluster.nodes
    cluster.add(node, "later", 50).began_at = 1.0
    cluster.add(node, "sooner", 100)
    assert finished(cluster) == [("sooner", 10.0), ("later", 15.0)]


def test_of_what_pods_wait_for_the_shortest_goes_first() -> None:
    cluster = cluster_of(1, budget_bytes=10_000, link=10.0, gpus=8)
    cluster.serving = Serving.IN_TURN
    [node] = cluster.nodes
    for app, size in (("long", 100), ("short", 50)):
        cluster.add(node, app, size).is_wanted = True
    assert finished(cluster) == [("short", 5.0), ("long", 15.0)]


def test_what_comes_from_a_node_that_holds_it_asks_no_origin() -> None:
    cluster = Cluster([Node(name, 10**6, 10.0, 8) for name in ("a", "b")], origin_bytes_per_s=5.0, peer_bytes_per_s=8.0)
    first, second = cluster.nodes
    cluster.add(first, "held", 10).left_bytes = 0.0
    first.coming.clear()
    cluster.add(first, "new", 50)
    cluster.add(second, "held", 10)
    assert finished(cluster) == [("held", 1.25), ("new", 10.0)]


@pytest.mark.parametrize(
    ("waited", "delay"),
    [(0.0, 0.0), (117.0, 0.0), (118.2, 0.4), (150.0, 0.0), (118 + 0.6 + 118 + 0.25, 0.75), (118 + 0.6 + 118 + 1.0, 0.0)],
)
def test_a_pod_gets_its_files_when_the_kubelet_asks_again(waited: float, delay: float) -> None:
    assert publish_delay_s(waited) == pytest.approx(delay)


@given(st.floats(0, 1e6))
def test_no_pod_waits_for_the_kubelet_longer_than_its_longest_pause(waited: float) -> None:
    assert 0 <= publish_delay_s(waited) <= 64.0


def test_pods_of_a_lost_node_start_again_where_there_is_place_and_run_what_they_had_left() -> None:
    starts = [Start(0.0, "a", 8, 10, 100.0), Start(1.0, "b", 8, 10, 500.0)]
    cluster = cluster_of(2, budget_bytes=1000, link=10.0, gpus=8)
    moments = list[float]()

    class Watching(Reactive):
        def changed(self, run: Run, node: Node) -> None:
            moments.append(run.now)

    losing = (50.0, lambda run: run.lose(run.cluster.nodes[0]))
    tally = Run(cluster, [*starts, Start(600.0, "c", 1, 10, 1.0)], [], Watching(), faults=[losing]).go()
    assert tally.waits_s == pytest.approx([1.0, 1.0, 1.0, 1.0])
    assert 502.0 in moments  # "b" ends; "a" comes after it, fetches anew for 1 s and has 51 of its 100 s left
    assert any(moment == pytest.approx(554.0) for moment in moments)


def a_day() -> list[Start]:
    """Six models of 10 bytes in turn, two of them often."""
    made = list[Start]()
    for number in range(120):
        app = f"hot{number % 2}" if number % 3 else f"cold{number // 3 % 4}"
        made.append(Start(number * 600.0, app, 1, 10, 60.0))
    return made


def waited_s(policy: str, *, budget: int = 30, share: float = 0.0) -> float:
    starts = a_day()
    said = traces.announced(starts, share, 1)
    chosen = Ours(measured=1.0) if policy == "prestage" else POLICIES[policy](0.0)
    tally = Run(cluster_of(1, budget_bytes=budget, link=0.1, gpus=8), starts, said, chosen).go()
    assert len(tally.waits_s) == len(starts)
    return sum(tally.waits_s)


def test_policies_stand_in_the_order_that_theory_has() -> None:
    none, lru, belady, best = (waited_s(name) for name in ("no cache", "LRU", "Belady by size", "clairvoyant"))
    assert none == 120 * 100.0
    assert none > lru >= belady > best
    assert waited_s("static list") <= lru


def test_the_product_told_ahead_waits_less_than_untold_and_less_than_lru() -> None:
    lru, untold, told = waited_s("LRU"), waited_s("prestage"), waited_s("prestage", share=1.0)
    assert untold <= lru
    assert told < untold / 2


def test_who_finds_no_accelerator_before_the_trace_ends_is_not_measured_nor_are_its_bytes() -> None:
    starts = [Start(0.0, "a", 8, 10, 100.0), Start(1.0, "b", 8, 10, 100.0)]
    for more, counted in (([], 1), ([Start(150.0, "c", 1, 10, 1.0)], 2)):
        tally = Run(cluster_of(1, budget_bytes=100, link=10.0, gpus=8), [*starts, *more], [], Reactive()).go()
        assert (tally.waits_s, tally.fetched_bytes) == ([1.0] * counted, 10.0 * counted)


def test_a_start_that_no_node_can_hold_is_refused_and_not_queued_before_all_others() -> None:
    starts = [Start(0.0, "a", 4, 10, 50.0), Start(1.0, "b", 8, 10, 50.0)]
    with pytest.raises(Misconfigured, match="app 'b' needs 8 accelerators, a node has 4"):
        Run(cluster_of(2, budget_bytes=100, link=10.0, gpus=4), starts, [], Reactive())
    Run(cluster_of(2, budget_bytes=100, link=10.0, gpus=8), starts, [], Reactive())


def test_a_scheduler_that_packs_leaves_whole_nodes_for_who_needs_one_and_waits_for_accelerators_are_told_apart() -> None:
    starts = [
        Start(0.0, "a", 2, 10, 100.0),
        Start(2.0, "b", 2, 10, 100.0),
        Start(10.0, "c", 8, 10, 5.0),
        Start(200.0, "d", 1, 10, 1.0),
    ]
    for scheduler, queued_s in ((Scheduler.PACKED, 0.0), (Scheduler.STEERED, 91.0)):  # "a" had its bytes at 1 and ends at 101
        cluster = cluster_of(2, budget_bytes=100, link=10.0, gpus=8)
        tally = Run(cluster, starts, [], Reactive(), scheduler=scheduler).go()
        assert (tally.queued_s, tally.waits_s) == (queued_s, [1.0] * 4)


def test_a_run_with_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(traces.write_trace(a_day()))
    one = Setting(file, None, 3, "prestage", Scheduler.BEST_OF_5, 0.5, 0.5, 7, 0.1, math.inf, 8)
    assert run_one(one) == run_one(one)


def test_a_link_serves_the_soonest_first_and_pods_before_all() -> None:
    said = [
        Announcement(0.0, 10.0, "a", 1, 50, None),
        Announcement(0.0, 20.0, "b", 1, 100, None),
        Announcement(0.0, 21.0, "c", 1, 100, None),
    ]
    tally = Tally(missing_bytes={0: 50.0, 1: 100.0, 2: 100.0})
    assert feasible(said, tally, 10.0) == {0, 1}
    tally.demand_pulls = [(0.0, 70.0)]
    assert feasible(said, tally, 10.0) == set()
    tally.missing_bytes[2] = 0.0
    assert feasible(said, tally, 10.0) == {2}


def test_what_has_no_room_beside_pods_or_beside_what_is_wanted_sooner_is_not_possible_whatever_the_link() -> None:
    def possible(*said: Announcement, budget: float, pinned: list[tuple[float, dict[str, int]]]) -> set[int]:
        tally = Tally(missing_bytes=dict.fromkeys(range(len(said)), 50.0), pinned=pinned)
        return served(said, tally, link_bytes_per_s=10.0, budget_bytes=budget)

    one, other = Announcement(0.0, 20.0, "a", 1, 50, None), Announcement(0.0, 26.0, "c", 1, 50, None)
    in_use = [(0.0, {"b": 60}), (14.0, {"b": 60, "a": 50}), (30.0, dict[str, int]())]
    assert possible(one, budget=100, pinned=in_use) == set()  # 60 in use while it would have to come
    assert possible(one, budget=110, pinned=in_use) == {0}
    assert possible(one, budget=100, pinned=[(0.0, {"b": 60}), (14.0, {})]) == {0}  # it comes from second 15 on
    assert possible(one, other, budget=99, pinned=[]) == {0, 1}  # the other comes from second 21 on
    close = Announcement(0.0, 22.0, "c", 1, 50, None)
    assert possible(one, close, budget=99, pinned=[]) == {0}
    assert possible(one, close, budget=100, pinned=[]) == {0, 1}


_PULLS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 100)), max_size=5)
_SAID = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from("abc")), max_size=6)


@given(_PULLS, _SAID, st.integers(0, 150))
def test_what_has_room_is_of_what_the_link_serves_and_with_endless_room_all_that_can_begin_late(
    pulls: list[tuple[int, int]], drawn: list[tuple[int, int, str]], budget: int
) -> None:
    said = [Announcement(float(at), float(at + notice), app, 1, 50, None) for at, notice, app in drawn]
    tally = Tally(missing_bytes=dict.fromkeys(range(len(said)), 50.0))
    tally.demand_pulls = sorted((float(at), float(size)) for at, size in pulls)
    found = served(said, tally, link_bytes_per_s=10.0, budget_bytes=budget)
    assert found <= feasible(said, tally, 10.0)
    endless = served(said, tally, link_bytes_per_s=10.0, budget_bytes=math.inf)
    assert served(said, tally, link_bytes_per_s=10.0, budget_bytes=150.0) == endless  # room for all three


@pytest.mark.parametrize("fault", [one for one in Fault if one is not Fault.NONE])
def test_with_every_fault_every_start_is_served_and_the_seed_says_all(fault: Fault, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(traces.write_trace(a_day()))
    one = Setting(file, None, 3, "prestage", Scheduler.STEERED, 0.5, 0.5, 7, 0.1, math.inf, 8, fault=fault)
    made = run_one(one)
    assert made == run_one(one)
    assert made.measures["warm"] > 0


def test_a_model_is_released_anew_once() -> None:
    anew = released_anew(a_day(), 1)
    assert {one.app.removesuffix("@2") for one in anew} == {one.app for one in a_day()}
    for app in {one.app for one in a_day()}:
        own = [one.app for one in anew if one.app.removesuffix("@2") == app]
        assert own == sorted(own)  # first all of the old, then all of the new


_SECONDS = st.integers(0, 10**6).map(float)
_STARTS = st.builds(Start, _SECONDS, st.sampled_from(["a", "b"]), st.integers(0, 8), st.just(10), _SECONDS, st.none() | _SECONDS)


@given(st.lists(_STARTS, max_size=9))
def test_a_trace_is_read_as_it_was_written(starts: list[Start]) -> None:
    ordered = sorted(starts, key=lambda one: (one.time_s, one.app))
    assert traces.parse_trace(traces.write_trace(ordered).splitlines(), "t") == ordered


@given(st.text(max_size=200))
def test_no_text_is_read_as_a_trace_but_a_trace(text: str) -> None:
    for lines in (text.splitlines(), ["time_s,app,gpus,size_bytes,duration_s", *text.splitlines()]):
        try:
            traces.parse_trace(lines, "t")
        except Misconfigured as exc:
            assert exc.hint


def test_starts_are_derived_from_rates_the_same_for_the_same_seed() -> None:
    rates = {"busy": dict.fromkeys(range(1008), 0.5), "rare": dict.fromkeys(range(0, 1008, 7), 0.01)}
    one = derive.one_node(rates, 3, apps=2, per_day=24.0)
    assert one == derive.one_node(rates, 3, apps=2, per_day=24.0)
    assert one != derive.one_node(rates, 4, apps=2, per_day=24.0)
    assert 100 < len(one) < 250  # 24 a day for a week
    assert sum(start.app == "busy" for start in one) > 10 * sum(start.app == "rare" for start in one)
    fleet = derive.fleet({"busy": {0: 5.0, 1: 500.0, 2: 5.0}}, 3, days=(0,))
    assert {start.time_s // 600 for start in fleet} == {0, 1}


def test_what_is_told_ahead_is_a_share_some_of_it_off_and_some_of_it_false() -> None:
    starts = a_day() * 10
    said = traces.announced(starts, 0.5, 1)
    true = [one for one in said if one.start is not None]
    assert abs(len(true) - 600) < 60
    assert len(said) - len(true) == int(len(true) * 0.05)
    off = [one for one in true if one.start is not None and one.ready_s != starts[one.start].time_s]
    assert 0.05 < len(off) / len(true) < 0.15
    assert all(one.said_s <= one.ready_s for one in said)


@pytest.mark.usefixtures("fonts_are_open")
def test_the_command_prints_tables_json_and_a_picture(tmp_path: Path) -> None:
    file, png = tmp_path / "t.csv", tmp_path / "p.png"
    file.write_text(traces.write_trace(a_day()))
    common = [
        "plan",
        str(file),
        "--seeds",
        "2",
        "--announced",
        "0.5",
        "--link",
        "1",
        "--budget",
        "30",
        "--policies",
        "LRU,prestage",
    ]
    shown = CliRunner().invoke(bench, [*common, "--png", str(png)])
    assert shown.exit_code == 0, shown.output
    assert "prestage" in shown.output
    assert png.read_bytes()[:4] == b"\x89PNG"
    made = json.loads(CliRunner().invoke(bench, [*common, "--json"]).output)
    assert [row["policy"] for row in made["rows"]] == ["LRU", "prestage"]
    waited = made["rows"][0]["wait_hours"]
    assert len(waited["values"]) == made["rows"][0]["seeds"] == 2
    assert waited["mean"] == pytest.approx(statistics.fmean(waited["values"]))


@pytest.mark.parametrize(
    "given",
    [["plan"], ["plan", "FILE", "--policies", "magic"], ["plan", "FILE", "--announced", "2"], ["plan", "FILE", "--ssd", "x"]],
)
def test_what_cannot_be_run_is_refused_with_a_next_step(given: list[str], tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(traces.write_trace(a_day()[:3]))
    refused = CliRunner().invoke(bench, [str(file) if one == "FILE" else one for one in given])
    assert isinstance(refused.exception, Misconfigured)
    assert refused.exception.hint


TRACE = Path(__file__).parents[2] / "planning" / "traces" / "three_days.csv"


def hours(policy: str, share: float) -> tuple[float, float, float]:
    """Waited, terabytes fetched, and how much of what was said and possible was on time."""
    made = run_one(Setting(TRACE, None, 1, policy, Scheduler.AWARE, share, 0.2, 1, 1.25e9, math.inf, 0)).measures
    return made["wait_hours"], made["fetched_tb"], made["on_time_of_feasible"]


def test_on_a_derived_trace_half_told_ahead_waits_are_less_than_two_thirds_of_lru_for_hardly_more_bytes() -> None:
    lru, lru_tb, _ = hours("LRU", 0.5)
    ours, tb, on_time = hours("prestage", 0.5)
    assert ours < 0.65 * lru
    assert tb <= 1.1 * lru_tb
    assert on_time > 0.95
