"""Where tokens, logins and AWS credentials come from, and that their values are never told."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import botocore.exceptions as boto
import pytest
from botocore.credentials import ReadOnlyCredentials

from prestage.cacher.errors import Denied, Misconfigured, PrestageError, Unavailable
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.asking import Asker
from prestage.cacher.origins.http import HttpOrigin
from prestage.cacher.origins.huggingface import PUBLIC, endpoint_of, token_of
from prestage.cacher.origins.s3_credentials import ANONYMOUS, FORCED_ANONYMOUS, Chain, Handed, Signer, failure
from prestage.cacher.refs import HttpRef, parse_ref


def test_the_token_is_looked_for_where_the_hubs_own_client_looks(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert token_of(home).value is None
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text("hf_cached\n")
    assert token_of(home).value == "hf_cached"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "token").write_text("hf_home")
    assert token_of({**home, "HF_HOME": str(tmp_path / "other")}).value == "hf_home"
    (tmp_path / "named").write_text(" hf_named \r\n")
    named = {**home, "HF_HOME": str(tmp_path / "other"), "HF_TOKEN_PATH": str(tmp_path / "named")}
    assert token_of(named).value == "hf_named"
    assert token_of({**named, "HF_TOKEN": "hf_env"}).value == "hf_env"
    assert token_of({**named, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}).value is None


def test_the_tokens_source_is_told_and_its_value_is_not(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_file")
    assert token_of({"HF_TOKEN": "hf_env"}).source == "with the token from HF_TOKEN"
    assert token_of({"HF_HOME": str(tmp_path)}).source == f"with the token from {tmp_path}/token"
    assert token_of({"HOME": str(tmp_path)}).source == "without a token"


@pytest.mark.parametrize("value", ["hf_two words", "hf_\x01", "hf_é", "x" * 5000])
def test_what_cannot_be_a_token_is_refused_unseen(value: str) -> None:
    with pytest.raises(Misconfigured, match="HF_TOKEN") as refused:
        token_of({"HF_TOKEN": value})
    assert value not in str(refused.value)


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=str(tmp_path)):
        token_of({"HF_TOKEN_PATH": str(tmp_path)})


def test_a_hub_has_one_name_however_it_is_written() -> None:
    assert endpoint_of({}) == PUBLIC
    assert endpoint_of({"HF_ENDPOINT": "https://Hub.example:443/"}) == "https://hub.example"
    assert endpoint_of({"HF_ENDPOINT": "http://[::1]:8080/hf/"}) == "http://[::1]:8080/hf"
    for wrong in ("hub.example", "ftp://hub", "https://u:p@hub", "https://h:port"):
        with pytest.raises(Misconfigured, match="HF_ENDPOINT"):
            endpoint_of({"HF_ENDPOINT": wrong})


def login(environ: Mapping[str, str], host: str = "files.example:8443") -> str | None:
    origin = HttpOrigin(HttpRef("https", host, "/f"), Asker(HttpClient()), environ)
    # The request is the only way out: no lookup is needed where the location is known.
    header = origin._login.get("Authorization")
    return None if header is None else b64decode(header.removeprefix("Basic ")).decode()


def test_a_login_comes_from_netrc_and_is_for_its_host_alone(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine files.example login me password pä:ss\n")
    assert login({"HOME": str(tmp_path)}) == "me:pä:ss"
    assert login({"HOME": str(tmp_path)}, "other.example") is None
    (tmp_path / "own").write_text("machine files.example login you password p\n")
    assert login({"HOME": str(tmp_path), "NETRC": str(tmp_path / "own")}) == "you:p"
    assert login({"HOME": "/nonexistent"}) is None


def test_a_broken_netrc_is_named_by_line_and_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine files.example login me password\nsecret oops\n")
    with pytest.raises(Misconfigured, match="netrc") as refused:
        login({"NETRC": str(tmp_path / "netrc")})
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    with pytest.raises(Misconfigured, match="NETRC"):
        login({"NETRC": str(tmp_path / "none")})


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process without any AWS configuration: boto reads the real environment."""
    import os

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def test_without_any_credentials_requests_go_unsigned(aws: pytest.MonkeyPatch) -> None:
    signer = Chain().signer()
    assert (signer.keys, signer.source) == (None, ANONYMOUS)
    assert signer.sign("https://h/b/k", {"If-Match": '"e"'}, method="GET", region="r") == {"If-Match": '"e"'}


def test_anonymous_on_demand_asks_nobody(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AK")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    assert Chain(anonymous=True).signer().source == FORCED_ANONYMOUS


def test_a_signature_covers_if_match_and_leaves_room_for_a_range(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AK")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    signer = Chain().signer()
    headers = signer.sign("https://h/b/k?versionId=v", {"If-Match": '"e"'}, method="GET", region="eu-west-1")
    assert "SignedHeaders=host;if-match;x-amz-content-sha256;x-amz-date" in headers["Authorization"]
    assert "/eu-west-1/s3/aws4_request" in headers["Authorization"]
    assert signer.source == "AWS credentials from the environment (AWS_ACCESS_KEY_ID)"
    assert "SK" not in headers["Authorization"]


def test_renewed_credentials_are_read_again_but_not_for_ever(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AK1")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    chain = Chain()
    old = chain.signer()
    aws.setenv("AWS_ACCESS_KEY_ID", "AK2")
    assert chain.renew(old)
    new = chain.signer()
    assert new.keys is not None
    assert new.keys.access_key == "AK2"
    assert chain.renew(old), "a late answer to the old credential must not cost the new one"
    assert chain.signer().generation == new.generation
    assert chain.renew(chain.signer())
    assert not chain.renew(chain.signer())


def test_the_profile_gives_endpoint_region_and_style(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile lab]\nregion = eu-north-1\nservices = lab-services\ns3 =\n  addressing_style = virtual\n"
        "[services lab-services]\ns3 =\n  endpoint_url = http://s3.lab:9000\n"
    )
    aws.setenv("AWS_PROFILE", "lab")
    profile = Chain().profile()
    assert (profile.endpoint, profile.region, profile.style) == ("http://s3.lab:9000", "eu-north-1", "virtual")
    aws.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert Chain().profile().endpoint is None


def test_a_profile_that_is_not_there_is_a_mistake_of_configuration(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_PROFILE", "nope")
    with pytest.raises(Misconfigured, match="nope"):
        open_origin(parse_ref("s3://bkt/k"), client=HttpClient(), environ={})


def test_half_a_credential_is_a_mistake_of_configuration(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AK")
    with pytest.raises(Misconfigured, match="AWS"):
        Chain().signer()


FAILURES: dict[str, tuple[boto.BotoCoreError | boto.ClientError, type[PrestageError]]] = {
    "profile": (boto.ProfileNotFound(profile="p"), Misconfigured),
    "partial": (boto.PartialCredentialsError(provider="env", cred_var="x"), Misconfigured),
    "config": (boto.ConfigParseError(path="p"), Misconfigured),
    "retrieval": (boto.CredentialRetrievalError(provider="p", error_msg="m"), Denied),
    "sso": (boto.SSOTokenLoadError(profile_name="p", error_msg="m"), Denied),
    "sso expired": (boto.UnauthorizedSSOTokenError(), Denied),
    "token": (boto.TokenRetrievalError(provider="p", error_msg="m"), Denied),
    "sts says no": (boto.ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRoleWithWebIdentity"), Denied),
    "no sts": (boto.EndpointConnectionError(endpoint_url="https://sts"), Unavailable),
    "slow sts": (boto.ConnectTimeoutError(endpoint_url="https://sts"), Unavailable),
    "metadata": (boto.MetadataRetrievalError(error_msg="m"), Unavailable),
    "anything else": (boto.DataNotFoundError(data_path="d"), Misconfigured),
}


@pytest.mark.parametrize("case", FAILURES)
def test_each_failure_of_the_chain_has_its_class(case: str) -> None:
    raised, kind = FAILURES[case]
    told = failure(raised)
    assert type(told) is kind
    assert told.hint
    assert "\n" not in str(told)


@pytest.mark.parametrize(
    ("code", "session", "permanent"),
    [
        ("ExpiredToken", True, True),
        ("RequestTimeTooSkewed", True, True),
        ("InvalidAccessKeyId", True, False),
        ("InvalidTokenId", True, False),
        ("SignatureDoesNotMatch", False, False),
        ("AccessDenied", False, False),
    ],
)
def test_a_key_that_a_server_forgot_is_a_session_that_ended_but_never_a_permanent_key(
    code: str, session: bool, permanent: bool
) -> None:
    from botocore.credentials import ReadOnlyCredentials

    assert Signer(ReadOnlyCredentials("AK", "SK", "token"), "s").may_be_stale(code) is session
    assert Signer(ReadOnlyCredentials("AK", "SK", None), "s").may_be_stale(code) is permanent
    assert not Signer(None, "s").may_be_stale("InvalidAccessKeyId")


def test_botos_own_calls_have_deadlines(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session = Chain()._open()
    assert session.get_default_client_config() is not None
    sts = session.create_client("sts", region_name="us-east-1")
    config = vars(sts.meta.config)
    sts.close()
    assert (config["connect_timeout"], config["read_timeout"]) == (10, 20)
    assert session.get_config_variable("metadata_service_num_attempts") == 3
    aws.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "7")
    assert Chain()._open().get_config_variable("metadata_service_num_attempts") == 7


def test_a_credential_that_was_handed_over_signs_and_never_looks_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKOURS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ours")
    handed = Handed(ReadOnlyCredentials("AKTHEIRS", "theirs", "token"), "the keys of Secret a/b")
    signer = handed.signer()
    assert not handed.renew(signer)
    url = signer.presign("https://host/bucket/key?versionId=v", region="eu-1", life_s=60)
    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Credential"][0].startswith("AKTHEIRS/")
    assert (query["X-Amz-Expires"], query["X-Amz-Security-Token"], query["versionId"]) == (["60"], ["token"], ["v"])
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert "theirs" not in url
    assert Handed(None, "none").signer().presign("https://host/key", region="eu-1", life_s=60) == "https://host/key"
