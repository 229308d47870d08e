"""What a namespace may name: patterns, selectors, intersections, and which Origin a ref goes to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from brokers import policy
from hypothesis import given
from hypothesis import strategies as st

from prestage.api.models import StagedModelGrant
from prestage.api.policies import CachePolicy, Origin
from prestage.api.reading import read
from prestage.api.selecting import selects
from prestage.api.values import LabelSelector
from prestage.cacher.refs import parse_ref
from prestage.control.broker.grants import grant_for
from prestage.control.broker.refusals import No
from prestage.control.broker.walls import check_plain, check_walls, matches, origin_for, origin_named, subjects

Wall = tuple[Sequence[tuple[str, str]], Mapping[str, str] | None]


def origin(name: str, kind: str = "S3", *, default: bool = True) -> Origin:
    return read(Origin, {"kind": "Origin", "metadata": {"name": name}, "spec": {"type": kind, "default": default}})


def policies(*rows: Wall) -> list[CachePolicy]:
    made = [policy(f"p{number}", allow, labels) for number, (allow, labels) in enumerate(rows)]
    return [read(CachePolicy, {"kind": "CachePolicy", **one}) for one in made]


def code(found: pytest.ExceptionInfo[No]) -> str:
    return found.value.refusal.code


def test_a_star_stands_for_any_text_and_everything_else_for_itself() -> None:
    for pattern, text, expected in (
        ("*", "", True),
        ("*", "a/b", True),
        ("meta-llama/*", "meta-llama/Llama-3", True),
        ("meta-llama/*", "meta-llama-evil/x", False),
        ("a*b*c", "abc", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("models", "models2", False),
        ("**x", "yx", True),
        ("", "", True),
        ("", "x", False),
    ):
        assert matches(pattern, text) is expected, (pattern, text)


@given(st.lists(st.text("ab*", max_size=4), max_size=4).map("".join), st.text("ab", max_size=8))
def test_patterns_agree_with_a_regular_expression(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None
    assert matches(pattern, text) is expected


def test_selectors_are_kubernetes_own() -> None:
    def chosen(selector: object, labels: dict[str, str]) -> bool:
        return selects(msgspec.convert(selector, LabelSelector), labels)

    assert chosen({}, {})
    assert chosen({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"})
    assert not chosen({"matchLabels": {"a": "1", "b": "2"}}, {"a": "1"})
    terms = {
        "In": [({"a": "1"}, True), ({"a": "3"}, False), ({}, False)],
        "NotIn": [({"a": "1"}, False), ({"a": "3"}, True), ({}, True)],
    }
    for operator, rows in terms.items():
        for labels, expected in rows:
            term = {"key": "a", "operator": operator, "values": ["1", "2"]}
            assert chosen({"matchExpressions": [term]}, labels) is expected, (operator, labels)
    for operator, expected in (("Exists", True), ("DoesNotExist", False)):
        assert chosen({"matchExpressions": [{"key": "a", "operator": operator}]}, {"a": ""}) is expected
        assert chosen({"matchExpressions": [{"key": "a", "operator": operator}]}, {}) is not expected


def test_every_policy_that_selects_the_namespace_must_allow() -> None:
    ref, at = parse_ref("hf://meta-llama/x"), origin("hub", "HuggingFace")
    labels = {"team": "a"}
    yes: Wall = ([("hub", "meta-llama/*")], None)
    no: Wall = ([("hub", "mistral/*")], None)
    check_walls(ref, at, policies(), labels)
    check_walls(ref, at, policies(yes), labels)
    check_walls(ref, at, policies(yes, ([("hub", "none/*")], {"team": "b"})), labels)
    walls: list[list[Wall]] = [[yes, no], [no], [([("other-hub", "*")], None)], [([], None)], [yes, ([], {"team": "a"})]]
    for wall in walls:
        with pytest.raises(No) as found:
            check_walls(ref, at, policies(*wall), labels)
        assert code(found) == "OriginNotAllowed"


def test_a_policy_without_origins_is_no_wall() -> None:
    spec = {"namespaceSelector": {}, "hard": {"bytes": "1Ti"}}
    open_policy = read(CachePolicy, {"kind": "CachePolicy", "metadata": {"name": "open"}, "spec": spec})
    check_walls(parse_ref("hf://any/thing"), origin("hub", "HuggingFace"), [open_policy], {})


def test_buckets_and_their_prefixes_hosts_and_their_paths_may_be_named() -> None:
    assert subjects(parse_ref("s3://models/team-a/x/")) == ("models", "models/team-a/x/")
    assert subjects(parse_ref("https://h:8443/a/b")) == ("h:8443", "h:8443/a/b")
    assert subjects(parse_ref("hf://o/n@v1")) == ("o/n",)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bkt/a/../c/",
        "s3://bkt/./a",
        "s3://bkt/a//c",
        "s3://bkt/a/%2e%2E/c",
        "s3://bkt/a\\c",
        "https://h/a/%2e%2e/b",
        "https://h/a/../b",
    ],
)
def test_paths_that_a_server_might_tidy_up_are_refused(text: str) -> None:
    with pytest.raises(No) as found:
        check_plain(parse_ref(text))
    assert code(found) == "PathTrick"


@pytest.mark.parametrize(
    "text", ["s3://bkt/", "s3://bkt/a/", "s3://bkt/a..b/c", "s3://bkt/.hidden", "https://h/a%20b", "hf://o/n"]
)
def test_plain_paths_pass(text: str) -> None:
    check_plain(parse_ref(text))


def test_an_annotations_ref_goes_to_the_one_default_origin_of_its_type() -> None:
    ref = parse_ref("s3://bkt/")
    known = [origin("a"), origin("b", default=False), origin("hub", "HuggingFace")]
    assert origin_for(ref, known).metadata.name == "a"
    for wrong, expected in ((known[1:], "NoDefaultOrigin"), ([*known, origin("c")], "TwoDefaultOrigins")):
        with pytest.raises(No) as found:
            origin_for(ref, wrong)
        assert code(found) == expected
    assert origin_named("b", ref, known).metadata.name == "b"
    for name, expected in (("none", "NoSuchOrigin"), ("hub", "OtherOrigin")):
        with pytest.raises(No) as found:
            origin_named(name, ref, known)
        assert code(found) == expected


def test_files_and_plain_http_are_never_served() -> None:
    for text, expected in (("file:///x", "NoFiles"), ("http://h/x", "NotHttps"), ("https://h/x?sig=1", "NotHttps")):
        with pytest.raises(No) as found:
            origin_for(parse_ref(text), [origin("web", "HTTPS")])
        assert code(found) == expected
        assert "sig" not in str(found.value)


def test_a_grant_names_model_namespace_and_account() -> None:
    spec = {"from": [{"namespace": "a", "serviceAccount": "s"}, {"namespace": "b"}], "to": [{"name": "m"}]}
    grant = read(StagedModelGrant, {"kind": "StagedModelGrant", "metadata": {"name": "g"}, "spec": spec})

    def granted(model: str, namespace: str, account: str) -> bool:
        return grant_for([grant], model=model, namespace=namespace, service_account=account) is grant

    assert granted("m", "a", "s")
    assert granted("m", "b", "any")
    assert not granted("m", "a", "t")
    assert not granted("n", "a", "s")
    assert not granted("m", "c", "s")
    assert grant_for([], model="m", namespace="a", service_account="s") is None
