"""Certificates: what is due when, that clients trust what is served through every rotation, and that replicas share."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from prestage.control.certificates import Due, Keys, Serving, Terms, due, keys_in, load, made, service_names, serving_certificate
from prestage.kube.errors import Conflict, Missing
from prestage.kube.ports import Object, Resource
from prestage.kube.resources import CONFIG_MAPS, SECRETS
from prestage.kube.testing import FakeApi

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
HOUR = datetime.timedelta(hours=1)
NAMES = service_names("prestage", "prestage-broker", ["10.0.0.7"])
Answer = TypeVar("Answer")


def run(test: Awaitable[Answer]) -> Answer:
    async def bounded() -> Answer:
        async with asyncio.timeout(30):
            return await test

    return asyncio.run(bounded())


def first(now: datetime.datetime = NOW, terms: Terms | None = None) -> Keys:
    return made(Due.EVERYTHING, None, NAMES, now, terms)


def step(held: Keys, now: datetime.datetime, terms: Terms | None = None) -> Keys:
    """As a replica does: until nothing is due."""
    for _ in range(4):
        what = due(held, NAMES, now, terms)
        if what is Due.NOTHING:
            return held
        held = made(what, held, NAMES, now, terms)
    raise AssertionError(f"{what} stays due at {now}")


def handshake(trusted: bytes, served: Keys, name: str) -> None:
    """TLS in memory between a client that trusts `trusted` and a server that has `served`."""
    client_context = ssl.create_default_context(cadata=trusted.decode())
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load(server_context, served)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(down, up, server_hostname=name)
    server = server_context.wrap_bio(up, down, server_side=True)
    left = [client, server]
    for _ in range(10):
        for side in list(left):
            try:
                side.do_handshake()
                left.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not left:
            return
    raise AssertionError("no handshake")


def test_nothing_or_rubbish_in_the_secret_means_everything_is_made() -> None:
    good = first()
    assert due(None, NAMES, NOW) is Due.EVERYTHING
    assert due(Keys(b"x", b"y", b"z", b""), NAMES, NOW) is Due.EVERYTHING
    other = first()
    mixed = Keys(good.authorities, good.authority_key, other.chain, other.key)
    assert due(mixed, NAMES, NOW) is Due.EVERYTHING, "an authority that did not sign the certificate"
    assert due(Keys(good.authorities, good.authority_key, good.chain, other.key), NAMES, NOW) is Due.EVERYTHING


def test_what_was_made_is_good_for_two_thirds_of_its_life() -> None:
    held = first()
    assert due(held, NAMES, NOW) is Due.NOTHING
    assert due(held, NAMES, NOW + 19 * DAY) is Due.NOTHING
    assert due(held, NAMES, NOW + 20 * DAY) is Due.CERTIFICATE
    assert due(held, NAMES | {"another.example"}, NOW) is Due.CERTIFICATE
    renewed = made(Due.CERTIFICATE, held, NAMES, NOW + 20 * DAY)
    assert renewed.authorities == held.authorities
    assert renewed.chain != held.chain
    assert due(renewed, NAMES, NOW + 39 * DAY) is Due.NOTHING


def test_a_new_authority_is_trusted_for_an_hour_before_it_signs_and_the_old_one_to_its_end() -> None:
    late = NOW + 244 * DAY
    held = made(Due.CERTIFICATE, first(), NAMES, late - DAY)
    assert due(held, NAMES, late) is Due.AUTHORITY
    both = made(Due.AUTHORITY, held, NAMES, late)
    assert (both.chain, both.key) == (held.chain, held.key)
    assert both.authorities.endswith(held.authorities)
    assert due(both, NAMES, late + HOUR / 2) is Due.NOTHING
    assert due(both, NAMES, late + HOUR) is Due.CERTIFICATE
    moved = made(Due.CERTIFICATE, both, NAMES, late + HOUR)
    assert due(moved, NAMES, late + DAY) is Due.NOTHING
    assert moved.authorities == both.authorities
    now = NOW + 365 * DAY
    kept = step(moved, now)
    assert held.authorities not in kept.authorities
    assert kept.authorities in both.authorities


def test_no_client_is_ever_left_behind_over_many_rotations() -> None:
    """A client that read the authorities up to half an hour ago trusts what is served, at every step."""
    terms = Terms(authority=10 * DAY, certificate=2 * DAY)
    now = NOW
    held = first(now, terms)
    published, authorities, chains = held.authorities, {held.authorities}, {held.chain}
    while now < NOW + 30 * DAY:
        now += HOUR / 2
        held = step(held, now, terms)
        if held.chain not in chains or held.authorities not in authorities:
            store = Store(x509.load_pem_x509_certificates(published))
            verifier = PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName("prestage-broker.prestage.svc"))
            verifier.verify(x509.load_pem_x509_certificates(held.chain)[0], [])
            chains.add(held.chain)
            authorities.add(held.authorities)
        published = held.authorities
    assert len(chains) > 20
    assert len(authorities) > 6


def test_clients_trust_it_under_every_name_of_the_service_and_no_other() -> None:
    keys = first(datetime.datetime.now(datetime.UTC))
    for name in ("prestage-broker.prestage.svc", "prestage-broker", "10.0.0.7"):
        handshake(keys.authorities, keys, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(keys.authorities, keys, "prestage-admission.prestage.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(first(datetime.datetime.now(datetime.UTC)).authorities, keys, "prestage-broker")


def test_no_key_is_shown_where_keys_are_printed() -> None:
    keys = first()
    assert "PRIVATE" not in repr(keys)


def secret_of(api: FakeApi) -> Object:
    return run(api.get(SECRETS, "prestage-broker-tls", namespace="prestage"))


def test_the_secret_and_the_published_authorities_are_made_once_and_then_read() -> None:
    api = FakeApi()
    keys = run(serving_certificate(api, "prestage", "prestage-broker"))
    assert keys_in(secret_of(api)) == keys
    published = run(api.get(CONFIG_MAPS, "prestage-broker-ca", namespace="prestage"))
    assert published["data"] == {"ca.crt": keys.authorities.decode()}
    writes = len(api.writes)
    assert run(serving_certificate(api, "prestage", "prestage-broker")) == keys
    assert len(api.writes) == writes


def test_replicas_that_start_together_end_with_one_secret() -> None:
    async def both() -> None:
        api = FakeApi()
        found = await asyncio.gather(*(serving_certificate(api, "prestage", "prestage-broker") for _ in range(5)))
        assert len(set(found)) == 1

    run(both())


class Racing(FakeApi):
    """Another replica is always a moment faster."""

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        await super().create(resource, {**body, "data": data_of(self.theirs)})
        raise Conflict("create secrets: already exists")

    theirs = first(datetime.datetime.now(datetime.UTC))


def data_of(keys: Keys) -> dict[str, str]:
    parts = {"ca.crt": keys.authorities, "ca.key": keys.authority_key, "tls.crt": keys.chain, "tls.key": keys.key}
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}


def test_who_writes_second_serves_what_the_first_made() -> None:
    api = Racing()
    assert run(serving_certificate(api, "prestage", "prestage-broker", names=["10.0.0.7"])) == api.theirs


def test_authorities_that_were_not_published_are_before_they_sign() -> None:
    """Killed between Secret and ConfigMap: the next round writes it; so does one that finds it changed by others."""

    async def test() -> None:
        api = FakeApi()
        keys = await serving_certificate(api, "prestage", "prestage-broker")
        await api.delete(CONFIG_MAPS, "prestage-broker-ca", namespace="prestage")
        with pytest.raises(Missing):
            await api.get(CONFIG_MAPS, "prestage-broker-ca", namespace="prestage")
        await serving_certificate(api, "prestage", "prestage-broker")
        found = await api.get(CONFIG_MAPS, "prestage-broker-ca", namespace="prestage")
        assert found["data"] == {"ca.crt": keys.authorities.decode()}

    run(test())


def test_a_context_that_is_kept_fresh_serves_the_new_certificate_and_says_so() -> None:
    async def test() -> None:
        api = FakeApi()
        seen: list[Keys] = []
        short = Terms(certificate=datetime.timedelta(minutes=-4))  # over when it is made
        serving = Serving(api, "prestage", "prestage-broker", on_change=seen.append)
        one = await serving.refresh()
        assert await serving.refresh() == one
        assert seen == [one]
        held = await api.get(SECRETS, "prestage-broker-tls", namespace="prestage")
        names = service_names("prestage", "prestage-broker")
        over = made(Due.CERTIFICATE, one, names, datetime.datetime.now(datetime.UTC), short)
        await api.replace(SECRETS, {**held, "data": data_of(over)})
        two = await serving.refresh()
        assert two.authorities == one.authorities
        assert two.chain not in (one.chain, over.chain)
        assert seen == [one, two]

    run(test())
