"""What an answer to a range request means, and what of it a person may see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.answers import common_verdict, error_code, said
from prestage.cacher.origins.ports import Next

S3_ERROR = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


@pytest.mark.parametrize(
    ("status", "following", "congested"),
    [
        (302, Next.REFRESH, False),
        (307, Next.REFRESH, False),
        (412, Next.CHANGED, False),
        (416, Next.CHANGED, False),
        (408, Next.RETRY, False),
        (429, Next.RETRY, True),
        (500, Next.RETRY, False),
        (503, Next.RETRY, True),
        (504, Next.RETRY, False),
    ],
)
def test_some_answers_mean_the_same_everywhere(status: int, following: Next, congested: bool) -> None:
    verdict = common_verdict("f", ResponseHead(status, {}), b"", 0.0)
    assert verdict is not None
    assert (verdict.next, verdict.congested, verdict.error) == (following, congested, None)
    assert "f" in verdict.why


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451, 501])
def test_the_others_are_the_origins_to_judge(status: int) -> None:
    assert common_verdict("f", ResponseHead(status, {}), b"", 0.0) is None


def test_the_wait_that_was_asked_for_is_passed_on() -> None:
    verdict = common_verdict("f", ResponseHead(429, {"ratelimit": '"resolvers";r=0;t=12'}), b"", 0.0)
    assert verdict is not None
    assert verdict.after_s == 12


def test_the_servers_own_words_are_told() -> None:
    assert said(ResponseHead(503, {}), S3_ERROR) == "SlowDown: Please reduce your request rate."
    assert error_code(ResponseHead(503, {}), S3_ERROR) == "SlowDown"
    assert said(ResponseHead(403, {"x-error-message": "Access is restricted"}), b"") == "Access is restricted"
    assert said(ResponseHead(404, {}), b'{"error": "Repository not found"}') == "Repository not found"
    assert said(ResponseHead(500, {}), b"<html>oops</html>") == ""


def test_a_signature_in_a_quoted_url_is_not_told() -> None:
    head = ResponseHead(403, {"x-error-message": "see https://h/f?X-Amz-Signature=abc&x=1 for more"})
    assert said(head, b"") == "see https://h/f for more"


@given(st.binary(max_size=300), st.text(max_size=300))
def test_whatever_a_server_says_comes_out_as_one_short_printable_line(body: bytes, message: str) -> None:
    head = ResponseHead(400, {"x-error-message": message, "x-error-code": message})
    for text in (
        said(head, body),
        said(ResponseHead(400, {}), body),
        error_code(head, body),
        error_code(ResponseHead(400, {}), body),
    ):
        assert len(text) <= 160
        assert text.isprintable()


@given(st.integers(0, 20000))
def test_deep_json_in_an_error_does_no_harm(depth: int) -> None:
    assert said(ResponseHead(400, {}), b'{"error":' + b"[" * depth) == ""


@given(st.integers(200, 599), st.binary(max_size=200), st.dictionaries(st.sampled_from(["retry-after", "ratelimit"]), st.text()))
def test_every_status_is_judged_without_failing(status: int, body: bytes, headers: dict[str, str]) -> None:
    verdict = common_verdict("f", ResponseHead(status, headers), body, 0.0)
    assert verdict is None or verdict.next is not Next.FATAL
