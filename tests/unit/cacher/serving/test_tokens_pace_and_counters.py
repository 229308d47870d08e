"""Who is let in, how fast it goes, what is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Misconfigured
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.serving.counters import Counters, Row
from prestage.cacher.serving.sending import STEP_BYTES, Pace
from prestage.cacher.serving.tokens import Tokens, read_tokens


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("# yesterday's\nold\n\n new \n")
    return path


def test_each_of_the_tokens_lets_in_and_nothing_else(file: Path) -> None:
    tokens = Tokens(file)
    tokens.check()
    assert tokens.admits("Bearer old")
    assert tokens.admits("bearer  new")
    for wrong in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer ol",
        "Bearer oldd",
        "Basic old",
        "old",
        "Bearer # yesterday's",
        "Bearer \u20ac",
    ):
        assert not tokens.admits(wrong)


def test_a_changed_file_counts_from_the_next_request_on(file: Path) -> None:
    tokens = Tokens(file)
    assert tokens.admits("Bearer old")
    beside = file.with_name("beside")
    beside.write_text("fresh\n")
    beside.replace(file)
    assert tokens.admits("Bearer fresh")
    assert not tokens.admits("Bearer old")


def test_without_a_readable_token_nobody_is_let_in(file: Path) -> None:
    tokens = Tokens(file)
    assert tokens.admits("Bearer old")
    file.unlink()
    assert not tokens.admits("Bearer old")
    file.write_text("# none\n")
    assert not tokens.admits("Bearer ")
    with pytest.raises(Misconfigured, match="holds no token"):
        tokens.check()


@given(st.binary(max_size=200))
def test_no_token_is_empty(raw: bytes) -> None:
    assert all(token and token == token.strip() for token in read_tokens(raw))


def test_a_cap_spreads_steps_over_time() -> None:
    now, rate = 100.0, 1e6
    pace = Pace(lambda: rate, lambda: now)
    assert pace.step_bytes == 100_000
    assert pace.wait_s() == 0
    pace.sent(100_000)
    assert pace.wait_s() == pytest.approx(0.1)
    pace.sent(100_000)
    assert pace.wait_s() == pytest.approx(0.2)
    now += 5  # what was not used is not saved up
    pace.sent(100_000)
    assert pace.wait_s() == pytest.approx(0.1)
    rate = 0.0
    assert pace.wait_s() == 0
    assert pace.step_bytes == STEP_BYTES


@pytest.fixture
def counters() -> Iterator[Counters]:
    made = Counters.create(2)
    yield made
    made.close()


def test_what_one_maps_the_other_sees(counters: Counters) -> None:
    other = Counters(os.dup(counters.fd), 2)
    other.add(0, Row.BYTES, 1 << 40)
    other.add(1, Row.BYTES, 5)
    other.put(1, Row.ACTIVE, 3)
    other.put(1, Row.READY, 1)
    counters.rate_bytes_per_s = 7
    assert other.rate_bytes_per_s == 7
    sums = counters.sums(restarts=4)
    assert (sums.bytes, sums.active, sums.workers, sums.restarts, sums.refused) == ((1 << 40) + 5, 3, 1, 4, 0)
    other.close()
    other.close()


@pytest.mark.parametrize("settings", [{"workers": 0}, {"connections": 0}, {"connections_per_peer": 0}, {"rate_bytes_per_s": 0.0}])
def test_settings_that_cannot_serve_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(Misconfigured):
        ServingConfig(Path("r"), Path("t"), **settings)  # type: ignore[arg-type] # one of them at a time


def test_a_worker_gets_the_settings_as_they_are() -> None:
    config = ServingConfig(Path("/r"), Path("/t"), "::1", 7070, rate_bytes_per_s=5e6)
    assert ServingConfig.from_json(config.to_json()) == config
