"""Without Kubernetes: the file, what is begun of it and when, and what the loop does when things go wrong."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prestage.cacher.agent.client import AgentClient
from prestage.cacher.errors import Misconfigured, NotFound
from prestage.node.standalone.app import Standalone, run
from prestage.node.standalone.deciding import Decision, Known, Store, decide
from prestage.node.standalone.demand_file import Model, parse
from prestage.planner.plans import Outcome

NOW = datetime.datetime(2026, 11, 26, 7, 0, tzinfo=datetime.UTC).timestamp()
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TEXT = """
models:
  - ref: hf://org/one@main
    files: {include: ["*.safetensors"]}
    windows: [{name: day, readySchedule: "0 8 * * *", timeZone: UTC, duration: 1h}]
  - ref: s3://models/base/
    windows: [{name: base}]
"""
MODELS = parse(TEXT)
KNOWN = {MODELS[0].key: Known(A, 1000), MODELS[1].key: Known(B, 1000)}
ROOMY = Store(limit_bytes=10**6, used_bytes=0, rate_bytes_per_s=100.0)


def refs(decision: Decision) -> list[str]:
    return [model.text for model in decision.begin]


def test_a_file_names_models_files_and_windows() -> None:
    assert [(model.ref.name, model.include, [name for name, _ in model.windows]) for model in MODELS] == [
        ("hf://org/one@main", ("*.safetensors",), ["day"]),
        ("s3://models/base/", (), ["base"]),
    ]
    once = parse("models: [{ref: 'hf://org/m', windows: [{name: a, readyBy: 2026-12-01T09:00:00Z, duration: 2h}]}]")
    assert once[0].windows[0][1].at(NOW).next is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [", "is no YAML"),
        ("[]", "Expected"),
        ("models: [{ref: 'hf://a/b'}]", "windows"),
        ("models: [{ref: 'hf://a/b', windows: []}]", "has no window"),
        ("models: [{ref: 'nowhere', windows: [{name: a}]}]", r"models\[0\]"),
        ("models: [{ref: 'hf://a/b', windows: [{name: a}, {name: a}]}]", "two windows of one name"),
        ("models: [{ref: 'hf://a/b', windows: [{name: a, readySchedule: '0 8 30 2 *', duration: 1h}]}]", "none of its months"),
        ("models: [{ref: 'hf://a/b', windows: [{name: a, readySchedule: '0 8 * * *'}]}]", "needs a duration"),
        ("models: [{ref: 'hf://a/b', windows: [{name: a}], when: now}]", "when"),
        ("x" * (1 << 21), "larger than a MiB"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        parse(text)


@settings(max_examples=50)
@given(st.text(max_size=200) | st.just(TEXT).flatmap(lambda text: st.integers(0, len(text)).map(lambda cut: text[:cut] + "{")))
def test_any_text_is_a_file_or_misconfigured(text: str) -> None:
    with contextlib.suppress(Misconfigured):
        assert isinstance(parse(text), tuple)


def test_what_is_wanted_now_comes_first_and_the_rest_early_once_the_link_is_idle() -> None:
    first = decide(MODELS, KNOWN, ROOMY, NOW)
    assert refs(first) == ["s3://models/base/"]
    busy = decide(MODELS, KNOWN, Store(10**6, 0, staging=frozenset({B}), rate_bytes_per_s=100.0), NOW, first.plan)
    assert refs(busy) == []
    idle = decide(MODELS, KNOWN, Store(10**6, 1000, warm=frozenset({B}), rate_bytes_per_s=100.0), NOW, busy.plan)
    assert refs(idle) == ["hf://org/one@main"]


def test_where_something_would_have_to_go_it_begins_at_its_latest_safe_start() -> None:
    full = Store(limit_bytes=1500, used_bytes=1200, rate_bytes_per_s=100.0)
    early = decide(MODELS[:1], KNOWN, full, NOW)
    assert refs(early) == []
    assert NOW < early.again_at < NOW + 3600 - 10
    assert refs(decide(MODELS[:1], KNOWN, full, early.again_at, early.plan)) == ["hf://org/one@main"]


def test_a_late_one_says_by_how_much() -> None:
    slow = Store(10**6, 0, rate_bytes_per_s=0.25)
    [window] = decide(MODELS[:1], KNOWN, slow, NOW).windows
    assert window.verdict.outcome is Outcome.LATE
    assert 390 < (window.verdict.late_by_s or 0) < 420


@dataclass
class ToldAgent:
    """What the agent would say; `begun` is what it was asked to stage."""

    warm: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    stages: list[dict[str, object]] = field(default_factory=list)

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        if path == "/v1/status":
            return {"usage": {"limit": 10**6, "used": 0, "reserved": 0}}
        if path == "/v1/artifacts":
            return {"items": [{"artifact": one, "state": "staged"} for one in self.warm]}
        if method == "POST":
            assert body is not None
            self.begun.append(str(body["ref"]))
            return {}
        return {"items": list(self.stages)}


def standing(tmp_path: Path, agent: ToldAgent, clock: list[float]) -> Standalone:
    def resolve(model: Model) -> Known:
        if model.ref.name not in resolvable:
            raise NotFound("there is no such model")
        return KNOWN[model.key]

    resolvable = {model.ref.name for model in MODELS} - ({"hf://org/one@main"} if "missing" in agent.warm else set())
    (tmp_path / "demand.yaml").write_text(TEXT)
    return Standalone(cast(AgentClient, agent), tmp_path / "demand.yaml", resolve, now=lambda: clock[0])


def test_a_stage_is_begun_once_and_one_that_failed_later_and_later(tmp_path: Path) -> None:
    agent, clock = ToldAgent(), [NOW]
    loop = standing(tmp_path, agent, clock)
    loop.step()
    assert agent.begun == ["s3://models/base/"]
    agent.stages = [{"id": "1", "ref": "s3://models/base/", "artifact": None, "state": "running", "bytes_per_s": 5}]
    clock[0] += 6
    loop.step()
    assert agent.begun == ["s3://models/base/"]
    agent.stages = [{"id": "1", "ref": "s3://models/base/", "artifact": B, "state": "failed", "bytes_per_s": 0}]
    begun = list[float]()
    for _ in range(40):
        clock[0] += 5
        before = len(agent.begun)
        loop.step()
        begun += [clock[0]] * (len(agent.begun) - before)
    assert [round(after - before) for before, after in itertools.pairwise(begun)] == [10, 20, 40, 80]


def test_a_file_that_went_bad_leaves_the_last_good_one_and_a_model_that_is_missing_the_others(tmp_path: Path) -> None:
    agent, clock = ToldAgent(warm=["missing"]), [NOW]
    loop = standing(tmp_path, agent, clock)
    loop.step()
    assert agent.begun == ["s3://models/base/"]
    (tmp_path / "demand.yaml").write_text("models: [")
    clock[0] += 400
    loop.step()
    assert agent.begun == ["s3://models/base/"] * 2
    (tmp_path / "demand.yaml").write_text("models: []")
    clock[0] += 400
    loop.step()
    assert agent.begun == ["s3://models/base/"] * 2


def test_a_file_that_is_bad_from_the_beginning_is_the_end(tmp_path: Path) -> None:
    loop = standing(tmp_path, ToldAgent(), [NOW])
    (tmp_path / "demand.yaml").write_text("models: [")
    with pytest.raises(Misconfigured, match="is no YAML"):
        loop.step()
    (tmp_path / "demand.yaml").unlink()
    with pytest.raises(Misconfigured, match="cannot be read"):
        loop.step()


def test_without_an_agent_it_says_which_one_to_start(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no agent owns the store") as raised:
        run(tmp_path / "store", tmp_path / "demand.yaml", waiting_s=0.0)
    assert raised.value.hint == f"start one: prestage agent --root {tmp_path / 'store'}"
