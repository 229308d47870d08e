"""Where an object is asked for, and under which authority its bytes are known."""

from __future__ import annotations

import pytest

from prestage.cacher.errors import Misconfigured
from prestage.cacher.origins.s3_addresses import S3Settings


def settings(**environ: str) -> S3Settings:
    return S3Settings.from_environ(environ, endpoint=None, region=None, style=None)


def test_aws_is_asked_in_virtual_style_and_named_without_region() -> None:
    aws = settings(AWS_REGION="eu-west-1")
    assert aws.url("models", "a/b.bin") == "https://models.s3.eu-west-1.amazonaws.com/a/b.bin"
    assert aws.authority("models") == settings(AWS_REGION="us-east-2").authority("models") == "s3:https://s3.amazonaws.com/models"
    assert settings(AWS_REGION="cn-north-1").authority("models") == "s3:https://s3.amazonaws.com.cn/models"


def test_a_bucket_with_dots_is_asked_in_path_style_for_the_sake_of_tls() -> None:
    assert settings().url("my.models", "k") == "https://s3.us-east-1.amazonaws.com/my.models/k"


def test_an_endpoint_of_ones_own_is_asked_in_path_style_unless_told() -> None:
    own = settings(AWS_ENDPOINT_URL="https://S3.example:9000/")
    assert own.url("models", "k") == "https://s3.example:9000/models/k"
    assert own.authority("models") == "s3:https://s3.example:9000/models"
    virtual = settings(AWS_ENDPOINT_URL="https://s3.example:9000", PRESTAGE_S3_STYLE="virtual")
    assert virtual.url("models", "k") == "https://models.s3.example:9000/k"
    assert virtual.url("models", query={"list-type": "2"}) == "https://models.s3.example:9000/?list-type=2"
    assert virtual.authority("models") == own.authority("models")


def test_the_endpoint_of_s3_beats_the_general_one_and_both_beat_the_profile() -> None:
    def endpoint(**environ: str) -> str | None:
        return S3Settings.from_environ(environ, endpoint="http://profile", region=None, style=None).endpoint

    assert endpoint(AWS_ENDPOINT_URL="http://all", AWS_ENDPOINT_URL_S3="http://s3") == "http://s3"
    assert endpoint(AWS_ENDPOINT_URL="http://all") == "http://all"
    assert endpoint() == "http://profile"


def test_a_default_port_is_left_out_so_that_one_server_has_one_name() -> None:
    assert settings(AWS_ENDPOINT_URL="https://h:443").endpoint == settings(AWS_ENDPOINT_URL="https://h/").endpoint == "https://h"
    assert settings(AWS_ENDPOINT_URL="http://[::1]:9000").endpoint == "http://[::1]:9000"


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        ("a b.bin", "a%20b.bin"),
        ("100%.bin", "100%25.bin"),
        ("é/ü", "%C3%A9/%C3%BC"),
        ("a//b", "a//b"),
        ("a+b&c=d?e#f", "a%2Bb%26c%3Dd%3Fe%23f"),
        ("~-_.", "~-_."),
        ("a@b,c", "a%40b%2Cc"),
    ],
)
def test_keys_are_encoded_as_signatures_want_them(key: str, encoded: str) -> None:
    assert settings(AWS_ENDPOINT_URL="http://h").url("bkt", key) == f"http://h/bkt/{encoded}"


def test_a_version_is_part_of_the_url() -> None:
    assert settings(AWS_ENDPOINT_URL="http://h").url("bkt", "k", {"versionId": "a/b+c"}) == "http://h/bkt/k?versionId=a%2Fb%2Bc"


@pytest.mark.parametrize(
    "environ",
    [
        {"AWS_ENDPOINT_URL": "ftp://h"},
        {"AWS_ENDPOINT_URL": "h:9000"},
        {"AWS_ENDPOINT_URL": "http://u:secret@h"},
        {"AWS_ENDPOINT_URL": "http://h:port"},
        {"PRESTAGE_S3_STYLE": "sideways"},
        {"PRESTAGE_S3_CONNECT_TO": "nowhere"},
        {"PRESTAGE_S3_CONNECT_TO": "h:99999"},
    ],
)
def test_settings_that_cannot_be_used_are_refused_without_telling_a_password(environ: dict[str, str]) -> None:
    with pytest.raises(Misconfigured) as refused:
        settings(**environ)
    assert "secret" not in str(refused.value)
    assert refused.value.hint


def test_another_host_to_connect_to() -> None:
    assert settings(PRESTAGE_S3_CONNECT_TO="127.0.0.1:9").connect_to == ("127.0.0.1", 9)
    assert settings(PRESTAGE_S3_CONNECT_TO="[::1]:9").connect_to == ("::1", 9)
