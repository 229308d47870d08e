"""Who asks, by which credentials, one at a time, and how a no is said."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Mapping
from typing import TypeVar

import msgspec
import pytest
from brokers import Cluster

from prestage.api.models import Credentials
from prestage.api.nodes import ErrorClass
from prestage.api.policies import Origin, OriginType
from prestage.api.reading import read
from prestage.cacher import errors
from prestage.cacher.net.errors import AddressRefused
from prestage.cacher.origins.asking import AskedToWait
from prestage.cacher.refs import parse_ref
from prestage.control.broker.claims import STALE_S, Claims
from prestage.control.broker.credentials import HubToken, RoleToken, S3Keys, credentials_of, read_keys
from prestage.control.broker.identity import Accounts, Review, check_planner, node_of, pod_of, review_in
from prestage.control.broker.opening import Network, Place, authority_of, policy_of
from prestage.control.broker.refusals import No, denied, refusal_for
from prestage.control.broker.slots import Slots
from prestage.kube import errors as kube
from prestage.kube.resources import LEASES, SERVICE_ACCOUNTS
from prestage.kube.testing import FakeApi

Answer = TypeVar("Answer")
CLAIM = "authentication.kubernetes.io/"
OURS = Accounts("prestage")
ROLE = "arn:aws:iam::123456789012:role/r"


def run(test: Awaitable[Answer]) -> Answer:
    async def bounded() -> Answer:
        async with asyncio.timeout(30):
            return await test

    return asyncio.run(bounded())


def code(found: pytest.ExceptionInfo[No]) -> str:
    return found.value.refusal.code


def review(user: str, **claims: str) -> Review:
    return Review(user, {CLAIM + name.replace("_", "-"): value for name, value in claims.items()})


def test_a_review_counts_with_our_audience_only() -> None:
    user = {"username": "system:serviceaccount:a:b", "extra": {CLAIM + "node-name": ["n1"], "other": ["x", "y"]}}
    good = {"authenticated": True, "audiences": ["us"], "user": user}
    assert review_in(good, "us") == Review("system:serviceaccount:a:b", {CLAIM + "node-name": "n1"})
    rows: list[dict[str, object]] = [{"audiences": []}, {"audiences": None}, {"audiences": "us"}, {"authenticated": "true"}]
    rows.append({"user": None})
    for wrong in rows:
        assert review_in({**good, **wrong}, "us") is None
    assert review_in({**good, "audiences": ["them"]}, "us") is None
    assert review_in(None, "us") is None


def test_who_may_ask_what() -> None:
    node = node_of(review("system:serviceaccount:prestage:prestage-node", node_name="n1", node_uid="u"), OURS)
    assert (node.name, node.uid) == ("n1", "u")
    check_planner(review("system:serviceaccount:prestage:prestage-planner"), OURS)
    pod = pod_of(review("system:serviceaccount:a:b", pod_name="p", pod_uid="u", node_name="n"))
    assert (pod.namespace, pod.service_account, pod.name, pod.uid, pod.node) == ("a", "b", "p", "u", "n")
    for user in ("system:serviceaccount:other:prestage-node", "prestage-node", "system:node:n1", ""):
        with pytest.raises(No) as found:
            node_of(review(user, node_name="n1"), OURS)
        assert code(found) == "NotANode"
        with pytest.raises(No):
            check_planner(review(user), OURS)
    for wrong in (review("system:serviceaccount:a:b", pod_name="p"), review("a", pod_name="p", pod_uid="u")):
        with pytest.raises(No) as found:
            pod_of(wrong)
        assert code(found) == "NotBoundToAPod"


def packed(**data: str) -> Mapping[str, object]:
    return {name: base64.b64encode(value.encode()).decode() for name, value in data.items()}


def test_secrets_are_read_by_the_keys_that_everybody_uses() -> None:
    aws = packed(AWS_ACCESS_KEY_ID="AK", AWS_SECRET_ACCESS_KEY="SK\n", AWS_SESSION_TOKEN="T")
    assert read_keys("s", aws, OriginType.S3) == S3Keys("AK", "SK", "T", "the keys of s")
    for name in ("HF_TOKEN", "token", "HUGGING_FACE_HUB_TOKEN"):
        assert read_keys("s", packed(**{name: "hf_x\n"}), OriginType.HUGGING_FACE) == HubToken("hf_x", "with the token of s")
    for shown in (S3Keys("AK", "SECRET", "TOKEN"), HubToken("TOKEN"), RoleToken("arn", "TOKEN")):
        assert "SECRET" not in repr(shown)
        assert "TOKEN" not in repr(shown)


def test_secrets_that_lack_something_name_the_key_and_never_a_value() -> None:
    rows: list[tuple[Mapping[str, object], OriginType]] = [
        ({}, OriginType.S3),
        (packed(AWS_ACCESS_KEY_ID="AK"), OriginType.S3),
        ({"HF_TOKEN": "not base64!"}, OriginType.HUGGING_FACE),
        (packed(HF_TOKEN="two words secret"), OriginType.HUGGING_FACE),
        (packed(AWS_ACCESS_KEY_ID="AK", AWS_SECRET_ACCESS_KEY="sé secret"), OriginType.S3),
        (packed(HF_TOKEN="secret"), OriginType.GCS),
    ]
    for data, kind in rows:
        with pytest.raises(No) as found:
            read_keys("Secret a/b", data, kind)
        assert code(found) == "NoCredentials"
        assert "secret" not in str(found.value)


def account(name: str = "prestage-fetcher", role: str | None = ROLE) -> Credentials:
    found = {"name": name, **({"roleARN": role} if role else {})}
    return msgspec.convert({"type": "ServiceAccount", "serviceAccount": found}, Credentials)


class Forbidding(Cluster):
    """RBAC gives the broker nothing in this namespace."""

    async def get(self, *_: object, **__: object) -> Mapping[str, object]:
        raise kube.Forbidden("get secrets: forbidden")

    async def create(self, *_: object, **__: object) -> Mapping[str, object]:
        raise kube.Forbidden("create serviceaccounts/token: forbidden")


def test_a_service_accounts_token_is_asked_for_and_only_that_of_the_fetcher() -> None:
    cluster = Cluster()
    cluster.put(SERVICE_ACCOUNTS, {"metadata": {"name": "prestage-fetcher", "namespace": "a"}})
    found = run(credentials_of(cluster, "a", account(), OriginType.S3))
    assert found == RoleToken(ROLE, "eyJ0.account.sig", f"the role {ROLE} by a/prestage-fetcher")
    assert cluster.token_requests == [("a", "prestage-fetcher")]
    rows = [
        ("a", account("admin"), OriginType.S3, "NotTheFetcher"),
        ("b", account(), OriginType.S3, "NoCredentials"),
        ("a", account(role=None), OriginType.S3, "NoCredentials"),
        ("a", account(), OriginType.HUGGING_FACE, "NoCredentials"),
        ("a", account(), OriginType.HTTPS, "SecretHeaders"),
    ]
    for namespace, named, kind, expected in rows:
        with pytest.raises(No) as refused:
            run(credentials_of(cluster, namespace, named, kind))
        assert code(refused) == expected
    assert run(credentials_of(cluster, "a", None, OriginType.HTTPS)) is None


def test_what_rbac_does_not_give_is_told_with_the_command_that_gives_it() -> None:
    secret = read_credentials("token")
    for named, flag in ((account(), "--fetcher"), (secret, "--secret token")):
        with pytest.raises(No) as found:
            run(credentials_of(Forbidding(), "team-a", named, OriginType.S3))
        assert code(found) == "NoCredentials"
        assert f"kubectl prestage enable team-a {flag} -o yaml" in str(found.value.refusal.hint)


def read_credentials(secret: str) -> Credentials:
    return msgspec.convert({"type": "Secret", "secretRef": {"name": secret}}, Credentials)


def place(kind: str, **spec: object) -> Place:
    return Place(read(Origin, {"kind": "Origin", "metadata": {"name": "o"}, "spec": {"type": kind, **spec}}))


def test_an_origin_says_endpoint_style_and_networks() -> None:
    rows = [
        ("s3://bkt/k/", place("S3"), "s3:https://s3.amazonaws.com/bkt"),
        ("s3://bkt/k/", place("S3", endpoint="https://minio.example"), "s3:https://minio.example/bkt"),
        ("hf://o/n", place("HuggingFace"), "hf:https://huggingface.co/o/n"),
        ("hf://o/n", place("HuggingFace", endpoint="https://hub.example/"), "hf:https://hub.example/o/n"),
        ("https://h/x", place("HTTPS"), "https://h"),
    ]
    for text, at, expected in rows:
        assert authority_of(parse_ref(text), at) == expected
    policy = policy_of(place("S3", allowedCIDRs=["10.0.0.0/8"]), Network())
    policy.check("minio", "10.1.2.3")
    policy.check("public", "1.1.1.1")
    for address in ("192.168.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254"):
        with pytest.raises(AddressRefused):
            policy.check("x", address)
        with pytest.raises(AddressRefused):
            policy_of(place("S3"), Network()).check("x", address)
    with pytest.raises(AddressRefused):
        policy.check_proxied("minio")
    policy_of(place("S3", proxy="http://proxy.example:3128"), Network()).check_proxied("minio")


def test_every_error_has_a_class_and_what_the_api_server_refuses_us_is_nobodys_fault() -> None:
    for kind, expected in {
        errors.Misconfigured: ErrorClass.MISCONFIGURED,
        errors.NotFound: ErrorClass.NOT_FOUND,
        errors.Denied: ErrorClass.DENIED,
        errors.Corrupt: ErrorClass.CORRUPT,
        errors.Busy: ErrorClass.BUSY,
        errors.Full: ErrorClass.FULL,
        errors.Unavailable: ErrorClass.UNAVAILABLE,
        kube.Forbidden: ErrorClass.UNAVAILABLE,
        kube.Missing: ErrorClass.UNAVAILABLE,
        kube.Invalid: ErrorClass.UNAVAILABLE,
        kube.Conflict: ErrorClass.UNAVAILABLE,
        kube.Gone: ErrorClass.UNAVAILABLE,
        kube.TooMany: ErrorClass.UNAVAILABLE,
        kube.Unreachable: ErrorClass.UNAVAILABLE,
    }.items():
        refusal = refusal_for(kind("why", hint="what now"))
        assert refusal is not None
        assert refusal.error_class is expected, kind
        assert refusal.code
        if kind.__module__ == kube.__name__:
            assert "why" not in refusal.message, "its words are about our objects"
    waiting = refusal_for(AskedToWait("slow down", hint="wait", after_s=30))
    assert waiting is not None
    assert waiting.retry_after_s == 30
    assert refusal_for(denied("NoGrant", "no")) is not None
    assert refusal_for(KeyError("x")) is None
    assert refusal_for(errors.Bug("x")) is None


def test_one_holds_a_claim_at_a_time_over_replicas_and_the_next_one_gets_it() -> None:
    async def test() -> None:
        api = FakeApi()
        inside: list[str] = []

        async def work(claims: Claims, name: str) -> None:
            async with claims.of("k"):
                inside.append(name)
                assert len(inside) == 1
                await asyncio.sleep(0.01)
                inside.remove(name)

        one, two = Claims(api, "prestage", "one"), Claims(api, "prestage", "two")
        await asyncio.gather(*(work(claims, name) for name in "abc" for claims in (one, two)))
        async with one.of("k"), two.of("other"):
            assert len((await api.page(LEASES)).items) == 2
        assert not (await api.page(LEASES)).items

    run(test())


def test_a_claim_whose_holder_died_is_taken_after_it_stood_still_for_long() -> None:
    async def test() -> None:
        api, now = FakeApi(), 0.0
        with pytest.raises(ZeroDivisionError):
            async with Claims(api, "prestage", "one").of("k"):
                raise ZeroDivisionError
        assert not (await api.page(LEASES)).items
        dead = Claims(api, "prestage", "dead").of("k")
        await dead.__aenter__()
        waiting = Claims(api, "prestage", "two", clock=lambda: now, wait_s=0.0)
        for now in (0.0, STALE_S - 1):  # noqa: B007  the clock
            with pytest.raises(No) as found:
                async with waiting.of("k"):
                    pass
            assert code(found) == "BeingResolved"
        now = STALE_S + 1
        patient = Claims(api, "prestage", "two", clock=lambda: now, wait_s=5.0)
        patient._seen = waiting._seen
        async with patient.of("k"):
            pass
        await dead.__aexit__(None, None, None)  # gives up what is no longer its own, and nothing else

    run(test())


def test_a_namespace_has_its_lane_and_the_rest_waits_or_goes() -> None:
    async def test() -> None:
        slots = Slots(total=4, each=2, waiting=5)
        active = {"a": 0, "b": 0}
        most = {"a": 0, "b": 0}

        async def work(namespace: str) -> None:
            async with slots.of(namespace):
                active[namespace] += 1
                most[namespace] = max(most[namespace], active[namespace])
                await asyncio.sleep(0.01)
                active[namespace] -= 1

        done = await asyncio.gather(*(work(name) for name in "aaaaaaabb"), return_exceptions=True)
        refused = [one for one in done if isinstance(one, No)]
        assert len(refused) == 2
        assert {one.refusal.code for one in refused} == {"TooManyAtOnce"}
        assert most == {"a": 2, "b": 2}
        await work("a")
        assert not slots._lanes

    run(test())
