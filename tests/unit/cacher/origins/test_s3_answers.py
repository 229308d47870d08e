"""What S3 says, read without trusting it."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Denied, Misconfigured, NotFound, PrestageError, Unavailable
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.answers import OurFault
from prestage.cacher.origins.s3_answers import Listed, NotXml, Page, object_entry, other_region, read_page, refusal

PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>m/</Prefix>{more}
<EncodingType>url</EncodingType>
<Contents><Key>m/a+b%2525%2B%C3%A9</Key><Size>3</Size><Owner><ID>x</ID></Owner><ETag>"e"</ETag></Contents>
<Contents><Key>m/folder/</Key><Size>0</Size></Contents>
<CommonPrefixes><Prefix>m/other/</Prefix></CommonPrefixes></ListBucketResult>"""


def page(more: str = "<IsTruncated>false</IsTruncated>") -> bytes:
    return PAGE.format(more=more).encode()


def error(code: str, message: str = "why") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def test_a_page_is_read_with_its_keys_decoded() -> None:
    assert read_page(page()) == Page((Listed("m/a b%25+é", 3), Listed("m/folder/", 0)), None)


def test_keys_that_were_not_encoded_stay_as_they_are() -> None:
    raw = page().replace(b"<EncodingType>url</EncodingType>", b"")
    assert read_page(raw).objects[0].key == "m/a+b%2525%2B%C3%A9"


def test_a_listing_goes_on_where_it_says() -> None:
    token = "<IsTruncated>true</IsTruncated><NextContinuationToken>1ue/==</NextContinuationToken>"
    assert read_page(page(token)).next_token == "1ue/=="
    with pytest.raises(NotXml, match="does not say where"):
        read_page(page("<IsTruncated>true</IsTruncated>"))


BAD_XML = {
    "empty": b"",
    "html": b"<html><body>welcome</body></html>",
    "cut": page()[:200],
    "text": b"not xml at all",
    "billion laughs": b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><ListBucketResult><Name>&b;</Name></ListBucketResult>',
    "external entity": b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><ListBucketResult><Name>b</Name></ListBucketResult>',
    "too deep": b"<ListBucketResult><Name>b</Name>" + b"<a>" * 5000,
    "no size": page().replace(b"<Size>3</Size>", b""),
    "negative size": page().replace(b"<Size>3</Size>", b"<Size>-3</Size>"),
    "no key": page().replace(b"<Key>m/folder/</Key>", b""),
    "wrong encoding": b'<?xml version="1.0" encoding="nonsense"?><ListBucketResult/>',
    "an error document": error("SlowDown"),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_what_is_no_listing_is_refused(case: str) -> None:
    with pytest.raises(NotXml):
        read_page(BAD_XML[case])


@given(st.binary(max_size=400))
def test_garbage_is_refused_and_nothing_else_happens(raw: bytes) -> None:
    with pytest.raises(NotXml):
        read_page(raw)


@given(st.data())
def test_damage_to_a_page_is_refused_or_gives_a_page(data: st.DataObject) -> None:
    raw = bytearray(page())
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = read_page(bytes(raw))
    except NotXml:
        return
    assert all(listed.key and listed.size_bytes >= 0 for listed in read.objects)


CRC64, CRC32, SHA256 = (b64encode(bytes(range(count))).decode() for count in (8, 4, 32))
HEADS = {
    "crc64nvme": ({"x-amz-checksum-crc64nvme": CRC64, "x-amz-checksum-type": "FULL_OBJECT"}, "crc64nvme:0001020304050607", None),
    "crc32c": ({"x-amz-checksum-crc32c": CRC32, "x-amz-checksum-type": "FULL_OBJECT"}, "crc32c:00010203", None),
    "no type, single part": ({"x-amz-checksum-crc32": CRC32, "etag": '"' + "0" * 32 + '"'}, "crc32:00010203", None),
    "sha256": (
        {"x-amz-checksum-sha256": SHA256, "x-amz-checksum-type": "FULL_OBJECT"},
        None,
        f"sha256:{bytes(range(32)).hex()}",
    ),
    "composite": ({"x-amz-checksum-sha256": SHA256 + "-3", "x-amz-checksum-type": "COMPOSITE"}, None, None),
    "composite without its mark": ({"x-amz-checksum-sha256": SHA256, "x-amz-checksum-type": "COMPOSITE"}, None, None),
    "parts without type": ({"x-amz-checksum-sha256": SHA256, "etag": '"' + "0" * 32 + '-3"'}, None, None),
    "the better one": ({"x-amz-checksum-crc32": CRC32, "x-amz-checksum-crc64nvme": CRC64}, "crc64nvme:0001020304050607", None),
    "wrong length": ({"x-amz-checksum-crc64nvme": CRC32, "x-amz-checksum-type": "FULL_OBJECT"}, None, None),
    "not base64": ({"x-amz-checksum-crc32": "€€", "x-amz-checksum-type": "FULL_OBJECT"}, None, None),
    "none": ({}, None, None),
}


@pytest.mark.parametrize("case", HEADS)
def test_only_a_checksum_of_the_whole_object_is_taken(case: str) -> None:
    headers, checksum, digest = HEADS[case]
    entry = object_entry("f", ResponseHead(200, {"content-length": "5", **headers}))
    assert entry is not None
    assert (entry.checksum, entry.digest) == (checksum, digest)


def test_a_null_version_pins_nothing() -> None:
    def version(value: str) -> str | None:
        entry = object_entry("f", ResponseHead(200, {"content-length": "5", "x-amz-version-id": value}))
        assert entry is not None
        return entry.version

    assert version("null") is None
    assert version("3sL4kqtJlcpXroDTDmJ") == "3sL4kqtJlcpXroDTDmJ"


@pytest.mark.parametrize("length", ["", "-1", "1e3", "9" * 30, "٣"])
def test_a_head_without_a_proper_size_is_no_object(length: str) -> None:
    assert object_entry("f", ResponseHead(200, {"content-length": length})) is None


def test_the_bucket_says_where_it_is() -> None:
    assert other_region(ResponseHead(301, {"x-amz-bucket-region": "eu-west-1"}), b"") == "eu-west-1"
    malformed = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>"
    assert other_region(ResponseHead(400, {}), malformed) == "eu-central-1"
    assert other_region(ResponseHead(200, {"x-amz-bucket-region": "eu-west-1"}), b"") is None
    assert other_region(ResponseHead(400, {"x-amz-bucket-region": "evil host/"}), b"") is None
    assert other_region(ResponseHead(403, {}), error("AccessDenied")) is None


USED = "AWS credentials from the environment (AWS_ACCESS_KEY_ID)"
REFUSALS: dict[str, tuple[int, bytes, type[PrestageError], str]] = {
    "no bucket": (404, error("NoSuchBucket"), NotFound, "no such bucket"),
    "no key": (404, error("NoSuchKey"), NotFound, "slash"),
    "no key, HEAD": (404, b"", NotFound, "does not exist"),
    "no version": (404, error("NoSuchVersion"), NotFound, "no such version"),
    "not allowed": (403, error("AccessDenied"), Denied, USED),
    "unknown key": (403, error("InvalidAccessKeyId"), Denied, USED),
    "wrong secret": (403, error("SignatureDoesNotMatch"), Denied, "belong together"),
    "bad token": (400, error("InvalidToken"), Denied, USED),
    "expired token": (400, error("ExpiredToken"), Denied, "expired"),
    "clock": (403, error("RequestTimeTooSkewed"), OurFault, "clock is 900 s off"),
    "unauthorized": (401, b"", Denied, USED),
    "archived": (403, error("InvalidObjectState"), Unavailable, "restore"),
    "elsewhere": (301, error("PermanentRedirect"), Misconfigured, "AWS_REGION"),
    "bad request": (400, error("InvalidRequest"), Misconfigured, "InvalidRequest"),
    "broken": (501, b"", Unavailable, "501"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_each_refusal_has_its_class_and_says_what_to_try(case: str) -> None:
    status, body, kind, says = REFUSALS[case]
    refused = refusal("s3://b/k", ResponseHead(status, {}), body, used=USED, clock_off_s=-900)
    assert type(refused) is kind
    assert says in str(refused)
    assert "s3://b/k" in refused.message
    assert refused.hint
    assert "\n" not in str(refused)


def test_a_delete_marker_is_a_version_that_is_not_there() -> None:
    refused = refusal("s3://b/k", ResponseHead(405, {"x-amz-delete-marker": "true"}), b"", used=USED)
    assert isinstance(refused, NotFound)
