"""Heads, names, ranges and conditions: bytes in, values or one refusal out."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prestage.cacher.serving.requests import Asked, Refused, Request, Span, What, parse, route, select

BLOB = "blake3-tree:" + "a1" * 32
INGEST = "b2" * 32
ETAG = f'"{BLOB}"'


def head(*lines: str, first: str = f"GET /v1/blobs/{BLOB} HTTP/1.1") -> bytes:
    return "\r\n".join([first, "Host: x", *lines]).encode("latin-1")


def refusal(raw: bytes) -> int:
    with pytest.raises(Refused) as caught:
        route(parse(raw))
    return caught.value.status


@given(st.binary(max_size=400))
@example(b"GET / HTTP/1.1\r\nHost: x\r\nRange: bytes=0-0\r\nRange: bytes=1-1")
@example(b"GET /v1/ingests/" + b"b" * 64 + b"?after=%31&wait=\xff HTTP/1.1")
def test_any_bytes_are_a_request_or_refused(raw: bytes) -> None:
    try:
        request = parse(raw)
        assert isinstance(route(request), Asked)
        assert request.method in ("GET", "HEAD")
    except Refused as exc:
        assert exc.status in (400, 404, 405, 413, 431)


@given(st.text(max_size=60), st.integers(0, 1 << 63))
@example("bytes=0-", 0)
@example("bytes=-0", 5)
@example("bytes=9223372036854775807-9223372036854775807", 5)
def test_any_range_is_a_part_the_whole_or_refused(value: str, size_bytes: int) -> None:
    try:
        span = select({"range": value}, ETAG, size_bytes)
    except Refused as exc:
        assert exc.status == 416
        assert exc.headers["Content-Range"] == f"bytes */{size_bytes}"
        return
    assert 0 <= span.start <= span.stop <= size_bytes
    assert span.partial == ((span.start, span.stop) != (0, size_bytes) or value.strip().lower().startswith("bytes"))


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-", 10, 100),
        ("bytes=-7", 93, 100),
        ("bytes=-700", 0, 100),
        ("bytes=90-700", 90, 100),
        ("Bytes = 1 - 2", 1, 3),
    ],
)
def test_one_range_gives_that_part(value: str, start: int, stop: int) -> None:
    assert select({"range": value}, ETAG, 100) == Span(start, stop, 100, partial=True)


@pytest.mark.parametrize("value", ["bytes=100-", "bytes=5-4", "bytes=-0", "bytes=0-1,5-6", "bytes=a-b", "bytes", "bytes=--1"])
def test_what_is_not_one_range_of_it_is_refused_and_not_answered_whole(value: str) -> None:
    with pytest.raises(Refused) as caught:
        select({"range": value}, ETAG, 100)
    assert caught.value.status == 416


def test_an_unknown_unit_is_ignored_as_the_rfc_says() -> None:
    assert select({"range": "pieces=0-1"}, ETAG, 100) == Span(0, 100, 100)


def test_conditions_are_judged_before_the_range() -> None:
    wanted = {"range": "bytes=0-9"}
    assert select({**wanted, "if-match": f'"x", {ETAG}'}, ETAG, 100).partial
    assert select({**wanted, "if-match": "*"}, ETAG, 100).partial
    assert select({**wanted, "if-range": ETAG}, ETAG, 100).partial
    assert select({**wanted, "if-range": '"x"'}, ETAG, 100) == Span(0, 100, 100)
    assert select({**wanted, "if-range": f"W/{ETAG}"}, ETAG, 100) == Span(0, 100, 100)
    for status, condition in (
        (412, {"if-match": '"x"'}),
        (412, {"if-match": f"W/{ETAG}"}),
        (304, {"if-none-match": f"W/{ETAG}"}),
    ):
        with pytest.raises(Refused) as caught:
            select({**wanted, **condition}, ETAG, 100)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (f"/v1/blobs/{BLOB}", Asked(What.BLOB, BLOB)),
        (f"/v1/blobs/{BLOB.replace(':', '%3A')}/meta", Asked(What.META, BLOB)),
        (f"/v1/blobs/{BLOB}/pieces/007", Asked(What.PIECE, BLOB, 7)),
        (f"/v1/ingests/{INGEST}", Asked(What.PROGRESS, INGEST)),
        (f"/v1/ingests/{INGEST}?after=3&wait=0", Asked(What.PROGRESS, INGEST, after=3, wait_s=0)),
        (f"/v1/ingests/{INGEST}/pieces/0", Asked(What.INGESTED_PIECE, INGEST, 0)),
    ],
)
def test_every_resource_has_its_name(path: str, asked: Asked) -> None:
    assert route(parse(head(first=f"GET {path} HTTP/1.1"))) == asked


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/blobs/",
        "/v1/blobs/../format",
        f"/v1/blobs/{BLOB}/../../format",
        f"/v1/blobs/..%2f{BLOB}",
        f"/v1/blobs/{BLOB}.meta",
        f"/v1/blobs/{BLOB}/pieces/-1",
        f"/v1/blobs/{BLOB}/pieces/9999999999",
        f"/v1/blobs/{BLOB.upper()}",
        f"/v1/blobs//{BLOB}",
        f"//v1/blobs/{BLOB}",
        f"/v1/ingests/{INGEST}/meta",
        f"/v1/ingests/{BLOB}",
        "/v1/quarantine/x",
    ],
)
def test_no_other_path_names_anything(path: str) -> None:
    assert refusal(head(first=f"GET {path} HTTP/1.1")) == 404


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (head(first="POST /v1/blobs/x HTTP/1.1"), 405),
        (head(first="GET http://x/v1 HTTP/1.1"), 400),
        (head(first="GET / HTTP/2.0"), 400),
        (head(first="GET  / HTTP/1.1"), 400),
        (head("Content-Length: 5"), 413),
        (head("Transfer-Encoding: chunked"), 413),
        (head("Host: y"), 400),
        (head("Authorization: Bearer a", "Authorization: Bearer b"), 400),
        (head("X: a\0b"), 400),
        (head(" folded: x"), 400),
        (head(*(f"X-{n}: y" for n in range(80))), 431),
        (b"GET / HTTP/1.1", 400),
        (head(first=f"GET /v1/ingests/{INGEST}?after=-1 HTTP/1.1"), 400),
    ],
)
def test_what_is_not_asked_properly_is_refused(raw: bytes, status: int) -> None:
    assert refusal(raw) == status


def test_a_connection_is_kept_as_http_says() -> None:
    def kept(*lines: str, version: str = "1.1") -> bool:
        request: Request = parse(head(*lines, first=f"GET / HTTP/{version}"))
        return request.keep_alive

    assert kept()
    assert not kept("Connection: x, Close")
    assert not kept(version="1.0")
