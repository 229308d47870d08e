"""A bucket whose requester pays: said on every request and signed, refused with a hint otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from offers import WEIGHTS, Offer, reader

from prestage.cacher.errors import Denied, Misconfigured
from prestage.cacher.net.client import HttpClient
from servers.answers import Answer, Request, plain
from servers.hostile import Hostile

LISTING = (
    b"<ListBucketResult><Name>paid</Name><IsTruncated>false</IsTruncated>"
    b"<Contents><Key>m/model.safetensors</Key><Size>%d</Size></Contents></ListBucketResult>"
)
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.fixture
def toll() -> Iterator[Hostile]:
    """Answers as S3 does for a bucket with RequesterPays: 403 unless the header is there and signed."""

    def choose(request: Request, answer: Answer) -> Answer:
        signed = request.headers.get("authorization", "").partition("SignedHeaders=")[2].partition(",")[0].split(";")
        if request.headers.get("x-amz-request-payer") != "requester" or "x-amz-request-payer" not in signed:
            return plain(403, b"" if request.method == "HEAD" else DENIED)
        return plain(200, LISTING % len(WEIGHTS)) if "list-type=2" in request.target else answer

    with Hostile({"/paid/m/model.safetensors": WEIGHTS}) as server:
        server.choose = lambda request: choose
        yield server


@pytest.fixture
def offer(toll: Hostile, monkeypatch: pytest.MonkeyPatch) -> Offer:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    environ = {"AWS_ENDPOINT_URL_S3": toll.url(""), "PRESTAGE_S3_REQUESTER_PAYS": "1"}
    return Offer("s3://paid/m/", {}, lambda path, content: None, "", environ)


def test_every_request_says_who_pays(offer: Offer, toll: Hostile, client: HttpClient) -> None:
    at = reader(offer, client)
    assert at.read(at.manifest.files[0]) == WEIGHTS
    asked = [(request.method, request.path.rpartition("/")[2]) for request in toll.requests]
    assert [method for method, name in asked if name != "manifest.json"] == ["GET", "HEAD", "GET"]
    assert ("GET", "manifest.json") in asked, "what was published is asked for first, and paid for too"
    assert all(request.headers["x-amz-request-payer"] == "requester" for request in toll.requests)


def test_without_it_the_refusal_says_what_may_be_set_and_what_it_costs(offer: Offer, toll: Hostile, client: HttpClient) -> None:
    offer.environ = {**offer.environ, "PRESTAGE_S3_REQUESTER_PAYS": "0"}
    with pytest.raises(Denied, match="Access Denied") as refused:
        reader(offer, client)
    assert refused.value.hint is not None
    assert "PRESTAGE_S3_REQUESTER_PAYS=1 (you are billed" in refused.value.hint


def test_one_who_pays_and_is_refused_is_not_told_to_pay(offer: Offer, toll: Hostile, client: HttpClient) -> None:
    toll.choose = lambda request: lambda _request, _answer: plain(403, DENIED)
    with pytest.raises(Denied) as refused:
        reader(offer, client)
    assert "billed" not in str(refused.value)


def test_a_value_that_is_neither_yes_nor_no_is_a_mistake(offer: Offer, client: HttpClient) -> None:
    offer.environ = {**offer.environ, "PRESTAGE_S3_REQUESTER_PAYS": "sometimes"}
    with pytest.raises(Misconfigured, match="PRESTAGE_S3_REQUESTER_PAYS"):
        offer.origin(client)
