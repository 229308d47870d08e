"""What a registry asks of whom it does not know, and the logins that answer."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Corrupt, Denied, Misconfigured, PrestageError
from prestage.images.challenges import Challenge, choose, parse_challenges, parse_token, token_url
from prestage.images.logins import Login, parse_logins
from prestage.images.names import parse_in_pod

BEARER = 'Bearer realm="https://auth.example/token",service="reg.example",scope="repository:team/app:pull,push"'


def packed(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_challenge_says_how_to_get_in() -> None:
    assert parse_challenges(BEARER) == (
        Challenge(
            "bearer", {"realm": "https://auth.example/token", "service": "reg.example", "scope": "repository:team/app:pull,push"}
        ),
    )
    assert parse_challenges('Basic realm="a \\"b\\", c", charset=UTF-8') == (
        Challenge("basic", {"realm": 'a "b", c', "charset": "UTF-8"}),
    )
    both = parse_challenges(f'Basic realm="x", {BEARER}')
    assert [one.scheme for one in both] == ["basic", "bearer"]
    assert choose(both) == both[1]
    assert choose(parse_challenges("Negotiate")) is None


def test_a_token_is_asked_for_pulling_from_that_repository_and_no_more() -> None:
    (challenge,) = parse_challenges(BEARER)
    url = token_url(challenge, "team/app", registry_is_tls=True)
    assert url == "https://auth.example/token?service=reg.example&scope=repository%3Ateam%2Fapp%3Apull"


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example/token",
        "file:///etc/passwd",
        "/token",
        "https://",
        "https://user:pw@auth.example/",
        "https://h:99999/",
        "https://[::/",
    ],
)
def test_a_password_goes_nowhere_but_to_an_https_url(realm: str) -> None:
    with pytest.raises(Denied):
        token_url(Challenge("bearer", {"realm": realm}), "app", registry_is_tls=True)


def test_tokens_are_read_in_both_spellings_and_live_as_long_as_is_said() -> None:
    assert parse_token(b'{"token": "a", "expires_in": 300}').life_s == 300
    assert parse_token(b'{"access_token": "b"}').life_s == 60
    assert parse_token(b'{"token": "a", "expires_in": 1e308}').life_s == 60
    for bad in (b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\nb"}', b'{"token": ""}'):
        with pytest.raises(Corrupt):
            parse_token(bad)


def test_a_login_is_found_by_host_pattern_and_the_longest_path() -> None:
    raw = json.dumps(
        {
            "auths": {
                "https://reg.example/v2/": {"auth": packed("all", "p")},
                "reg.example/team": {"username": "team", "password": "q"},
                "*.corp.example": {"auth": packed("corp", "p:with:colons")},
                "https://index.docker.io/v1/": {"auth": packed("hub", "p")},
                "helper.example": {},
            }
        }
    ).encode()
    logins = parse_logins(raw, "config.json")
    assert logins.of(parse_in_pod("reg.example/app")) == Login("all", "p")
    assert logins.of(parse_in_pod("reg.example/team/app")) == Login("team", "q")
    assert logins.of(parse_in_pod("reg.example/teammate/app")) == Login("all", "p")
    assert logins.of(parse_in_pod("a.corp.example/app")) == Login("corp", "p:with:colons")
    assert logins.of(parse_in_pod("a.b.corp.example/app")) is None
    assert logins.of(parse_in_pod("nginx")) == Login("hub", "p")
    assert logins.of(parse_in_pod("helper.example/app")) is None
    assert logins.of(parse_in_pod("reg.example:5000/app")) is None


def test_a_login_never_shows_its_password() -> None:
    assert "hunter2" not in repr(Login("bob", "hunter2"))
    for bad in (b"hunter2", b'{"auths": {"r": {"auth": "hunter2!"}}}', b'{"auths": "hunter2"}'):
        with pytest.raises(Misconfigured) as caught:
            parse_logins(bad, "config.json")
        assert "hunter2" not in str(caught.value)


@given(st.text(max_size=200), st.binary(max_size=200))
def test_anything_is_read_or_refused(header: str, raw: bytes) -> None:
    challenge = choose(parse_challenges(header)) or Challenge("bearer", {"realm": header})
    for read in (
        lambda: token_url(challenge, "app", registry_is_tls=True),
        lambda: parse_token(raw),
        lambda: parse_logins(raw, "c"),
    ):
        try:
            read()
        except PrestageError:
            continue


@given(
    st.dictionaries(
        st.text(max_size=20),
        st.dictionaries(st.sampled_from(["auth", "username", "password"]), st.text(max_size=20) | st.integers()),
    )
)
def test_any_docker_config_is_read_or_refused(auths: dict[str, object]) -> None:
    try:
        logins = parse_logins(json.dumps({"auths": auths}).encode(), "c")
    except Misconfigured:
        return
    found = logins.of(parse_in_pod("reg.example/app"))
    assert found is None or found.basic.startswith("Basic ")
