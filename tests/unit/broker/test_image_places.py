"""Which Origin a registry is, what of it a namespace may name, and what a node may be told of it."""

from __future__ import annotations

import base64
import json

import pytest
from brokers import policy
from hypothesis import given
from hypothesis import strategies as st

from prestage.api.policies import CachePolicy, Origin
from prestage.api.reading import read
from prestage.cacher.errors import Misconfigured
from prestage.control.broker.image_places import check_image, named, pinned, place_of, read_logins
from prestage.control.broker.images import is_image, platform_of
from prestage.control.broker.refusals import No
from prestage.control.broker.sources import SOURCE_MAX, Trace, named_as
from prestage.images.descriptors import Platform

NAME = named("oci://registry.example:5000/team/app:v1")


def origin(name: str, *, default: bool = False, **spec: object) -> Origin:
    body = {"type": "OCI", "default": default, **spec}
    return read(Origin, {"kind": "Origin", "metadata": {"name": name}, "spec": body})


def code(found: pytest.ExceptionInfo[No]) -> str:
    return found.value.refusal.code


ANY = origin("any", default=True)
OWN = origin("own", endpoint="http://registry.example:5000")


def test_a_registry_of_its_own_comes_before_the_one_for_all() -> None:
    own = place_of(NAME, [ANY, OWN])
    assert (own.origin.metadata.name, own.base, own.is_tls) == ("own", "http://registry.example:5000/v2/team/app", False)
    other = place_of(named("oci://ghcr.io/org/app"), [ANY, OWN])
    assert (other.origin.metadata.name, other.base, other.is_tls) == ("any", "https://ghcr.io/v2/org/app", True)
    hub = place_of(named("oci://docker.io/library/busybox"), [ANY, origin("hub", endpoint="https://registry-1.docker.io")])
    assert (hub.origin.metadata.name, hub.base) == ("hub", "https://registry-1.docker.io/v2/library/busybox")


def test_without_an_origin_or_with_two_nothing_is_staged() -> None:
    mirror = origin("mirror", endpoint="http://registry.example:5000", mirrorOf={"name": "any"})
    for origins, expected in (([], "NoOriginForImages"), ([mirror], "NoOriginForImages"), ([OWN, OWN], "TwoDefaultOrigins")):
        with pytest.raises(No) as refused:
            place_of(NAME, origins)
        assert code(refused) == expected
    with pytest.raises(No) as refused:
        place_of(named("oci://other.example/app"), [OWN])
    assert code(refused) == "NoOriginForImages"


def test_policies_are_about_the_repository_and_at_an_origin_for_all_about_its_registry_too() -> None:
    walls = [read(CachePolicy, {"kind": "CachePolicy", **policy("p", [("any", "team/*"), ("own", "team/*")])})]
    check_image(NAME, OWN, walls, {})
    with pytest.raises(No) as refused:
        check_image(NAME, ANY, walls, {})
    assert code(refused) == "OriginNotAllowed"
    wide = [read(CachePolicy, {"kind": "CachePolicy", **policy("p", [("any", "registry.example:5000/team/*")])})]
    check_image(NAME, ANY, wide, {})
    with pytest.raises(No):
        check_image(named("oci://evil.example/registry.example/team/app"), ANY, wide, {})


@given(st.text(max_size=50))
def test_a_platform_is_two_words(text: str) -> None:
    try:
        found = platform_of(text)
    except No:
        return
    assert f"{found.os}/{found.architecture}" == text


def test_a_platform_has_the_variant_that_its_nodes_say() -> None:
    assert platform_of("linux/arm64") == Platform("linux", "arm64", "v8")
    assert platform_of("linux/amd64") == Platform("linux", "amd64")


def test_a_source_is_named_by_its_secrets_and_never_too_long() -> None:
    trace = Trace(ref=pinned(NAME, "sha256:" + "a" * 64), pull_secrets=("one", "two"))
    assert is_image(trace)
    assert not is_image(Trace(model="llama"))
    assert named_as(trace) == f"oci://registry.example:5000/team/app:v1@sha256:{'a' * 64} by one,two"
    assert len(named_as(Trace(ref="oci://x/y", pull_secrets=tuple("s" * 250 for _ in range(16))))) == SOURCE_MAX


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.text(max_size=5),
        lambda inner: st.dictionaries(st.sampled_from(["auths", "auth", "username", "password", "r.example"]), inner, max_size=3),
        max_leaves=8,
    ).map(lambda made: json.dumps(made).encode())
)
def test_whatever_a_pull_secret_holds_is_read_or_refused(raw: bytes) -> None:
    try:
        read_logins("Secret a/b", {".dockerconfigjson": base64.b64encode(raw).decode()})
    except (No, Misconfigured) as exc:
        assert "Secret a/b" in str(exc)
