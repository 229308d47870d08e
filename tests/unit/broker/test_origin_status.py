"""What an Origin says of itself: by its object alone, by what was found, and when that is written. Pure."""

from __future__ import annotations

import datetime

import msgspec
import pytest

from prestage.api.policies import Origin, OriginSpec, OriginType
from prestage.api.values import ConditionStatus, Metadata, NameRef
from prestage.control.broker.origin_status import HOURLY, Said, address_of, status_of, without_asking

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)
UP, DOWN = Said(True, "Reachable"), Said(False, "Unreachable", "https://hub: refused; check it")


def origin(kind: OriginType, **spec: object) -> Origin:
    return Origin(metadata=Metadata(name="it", generation=3), spec=msgspec.convert({"type": kind, **spec}, OriginSpec))


@pytest.mark.parametrize(
    ("made", "address", "reason"),
    [
        (origin(OriginType.S3, endpoint="https://minio.example"), "https://minio.example", None),
        (origin(OriginType.S3, region="eu-west-1"), "https://s3.eu-west-1.amazonaws.com", None),
        (origin(OriginType.S3), "https://s3.us-east-1.amazonaws.com", None),
        (origin(OriginType.HUGGING_FACE), "https://huggingface.co", None),
        (origin(OriginType.HTTPS), None, "AnyHost"),
        (origin(OriginType.OCI, endpoint="https://r"), "https://r", None),
        (origin(OriginType.OCI), None, "AnyHost"),
        (origin(OriginType.GCS), None, "NotSupported"),
        (origin(OriginType.S3, mirrorOf={"name": "gone"}), "https://s3.us-east-1.amazonaws.com", "NoSuchOrigin"),
    ],
)
def test_whom_to_ask_and_what_its_object_says_already(made: Origin, address: str | None, reason: str | None) -> None:
    assert address_of(made) == address
    said = without_asking(made, [made])
    assert (said.reason if said else None) == reason


def test_a_mirror_of_an_origin_that_is_there_is_asked() -> None:
    primary = Origin(metadata=Metadata(name="hub"), spec=OriginSpec(type=OriginType.HUGGING_FACE))
    spec = OriginSpec(type=OriginType.HUGGING_FACE, mirror_of=NameRef(name="hub"), endpoint="https://near")
    assert without_asking(Origin(metadata=Metadata(name="near"), spec=spec), [primary]) is None


def test_what_is_new_is_written_at_once_and_the_same_hourly() -> None:
    made = origin(OriginType.HUGGING_FACE)
    first = status_of(made, UP, NOW)
    assert first is not None
    assert first.conditions is not None
    assert (first.conditions[0].status, first.checked_at, first.observed_generation) == (ConditionStatus.TRUE, NOW, 3)
    known = msgspec.structs.replace(made, status=first)
    assert status_of(known, UP, NOW + HOURLY / 2) is None
    assert status_of(known, Said(True, "Reachable", "by another address"), NOW + HOURLY / 2) is None
    hourly = status_of(known, UP, NOW + HOURLY)
    assert hourly is not None
    assert hourly.conditions == first.conditions, "since when is as it was"
    down = status_of(known, DOWN, NOW + HOURLY / 2)
    assert down is not None
    assert down.conditions is not None
    assert (down.conditions[0].reason, down.conditions[0].last_transition_time) == ("Unreachable", NOW + HOURLY / 2)
