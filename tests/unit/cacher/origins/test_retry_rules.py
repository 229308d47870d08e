"""When a metadata call is sent again: what passes, how long, until when."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.net.errors import NetError
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.retry import GiveUp, RetryRules, Wait, after_failure, is_transient, stated_delay_s

RULES = RetryRules()
NOW_S = 1_790_000_000.0


def after(
    failure: NetError | ResponseHead, *, failures: int = 1, elapsed_s: float = 0.0, draw: float = 0.5, rules: RetryRules = RULES
) -> Wait | GiveUp:
    return after_failure(failure, failures=failures, elapsed_s=elapsed_s, now_s=NOW_S, draw=draw, rules=rules)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_answers_that_pass_are_asked_again(status: int) -> None:
    assert isinstance(after(ResponseHead(status, {})), Wait)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 412, 416, 451, 501])
def test_answers_that_do_not_pass_end_the_call(status: int) -> None:
    assert after(ResponseHead(status, {})) == GiveUp()


def test_the_jitter_is_full_and_its_range_doubles_up_to_the_cap() -> None:
    head = ResponseHead(503, {})
    assert after(head, draw=0.0) == Wait(0.0)
    ranges = []
    for failures in range(1, 12):
        step = after(head, failures=failures, draw=0.999999)
        assert isinstance(step, Wait)
        ranges.append(round(step.seconds, 3))
    assert ranges[:6] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    assert set(ranges[6:]) == {8.0}


def test_what_the_server_asks_for_is_the_least_that_is_waited() -> None:
    step = after(ResponseHead(429, {"retry-after": "7"}), draw=0.5)
    assert step == Wait(7 + 0.5 * RULES.base_s)


def test_a_wait_that_does_not_fit_the_budget_ends_the_call_and_is_named() -> None:
    assert after(ResponseHead(429, {"ratelimit": '"api";r=0;t=300'})) == GiveUp(300)
    assert after(ResponseHead(503, {"retry-after": "20"}), elapsed_s=45) == GiveUp(20)
    assert isinstance(after(ResponseHead(503, {"retry-after": "20"}), elapsed_s=30), Wait)


def test_nobody_there_is_given_up_soon_and_a_broken_connection_is_not() -> None:
    assert after(NetError("refused", "x"), elapsed_s=9) == GiveUp()
    assert after(NetError("dns", "x"), elapsed_s=9) == GiveUp()
    assert isinstance(after(NetError("reset", "x"), elapsed_s=9), Wait)
    assert after(NetError("tls", "not trusted", retryable=False)) == GiveUp()
    assert not is_transient(NetError("redirects", "loop", retryable=False))


STATED = {
    "seconds": ({"retry-after": "3"}, 3.0),
    "a date": ({"retry-after": email.utils.formatdate(NOW_S + 90, usegmt=True)}, 90.0),
    "a date gone by": ({"retry-after": email.utils.formatdate(NOW_S - 90, usegmt=True)}, 0.0),
    "hugging face": ({"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"fixed window";"api";q=500;w=300'}, 55.0),
    "several policies": ({"ratelimit": '"api";r=0;t=5, "pages";r=0;t=50, "resolvers";r=9;t=99'}, 50.0),
    "quota left": ({"ratelimit": '"api";r=12;t=55'}, None),
    "the longer one": ({"retry-after": "3", "ratelimit": '"api";r=0;t=8'}, 8.0),
    "github": ({"x-ratelimit-reset-after": "1.5"}, 1.5),
    "nothing": ({}, None),
    "garbage": ({"retry-after": "soon", "ratelimit": ";;=;t", "x-ratelimit-reset-after": "-1"}, None),
    "a date no calendar has": ({"retry-after": "Wed, 99 Foo 99999 99:99:99 GMT"}, None),
}


@pytest.mark.parametrize("case", STATED)
def test_the_wait_that_a_server_states_is_read(case: str) -> None:
    headers, seconds = STATED[case]
    assert stated_delay_s(headers, NOW_S) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=40))
def test_no_header_makes_the_rules_fail_or_wait_longer_than_the_budget(retry_after: str, limit: str, reset: str) -> None:
    head = ResponseHead(429, {"retry-after": retry_after, "ratelimit": limit, "x-ratelimit-reset-after": reset})
    step = after(head)
    assert isinstance(step, GiveUp) or 0 <= step.seconds <= RULES.budget_s


@given(
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 10_000),
    st.floats(0, 100),
    st.sampled_from(["reset", "stalled", "short", "dns", "refused"]),
)
def test_every_call_ends_within_its_budget(draw: float, failures: int, elapsed_s: float, reason: str) -> None:
    step = after(NetError(reason, "x"), failures=failures, elapsed_s=elapsed_s, draw=draw)
    assert isinstance(step, GiveUp) or elapsed_s + step.seconds <= RULES.budget_s
