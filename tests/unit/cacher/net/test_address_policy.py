"""Which address is of which class, and what a policy says to it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.errors import AddressRefused
from prestage.cacher.net.policy import ANYWHERE, AddressClass, AddressPolicy, classify

CLASSES = {
    "93.184.216.34": "public",
    "2606:4700::1111": "public",
    "::ffff:93.184.216.34": "public",
    "64:ff9b::5db8:d822": "public",
    "10.1.2.3": "private",
    "172.31.255.255": "private",
    "172.32.0.1": "public",
    "192.168.0.1": "private",
    "100.64.0.1": "private",
    "fd12:3456::1": "private",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:7f00:1": "loopback",
    "::ffff:0:127.0.0.1": "loopback",
    "::127.0.0.1": "loopback",
    "64:ff9b::7f00:1": "loopback",
    "2002:7f00:1::": "loopback",
    "169.254.169.254": "link-local",
    "169.254.170.23": "link-local",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "::ffff:169.254.169.254": "link-local",
    "64:ff9b::a9fe:a9fe": "link-local",
    "2002:a9fe:a9fe::1": "link-local",
    "2001:0:a9fe:a9fe::1": "link-local",
    "2001:0:808:808:0:0:5601:5601": "link-local",
    "fd00:ec2::254": "cloud metadata",
    "fd00:ec2::23": "cloud metadata",
    "fd20:ce::254": "cloud metadata",
    "168.63.129.16": "cloud metadata",
    "100.100.100.200": "cloud metadata",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "::ffff:0.0.0.0": "unspecified",
    "64:ff9b::": "unspecified",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "reserved",
    "64:ff9b:1::a00:1": "reserved",
}


@pytest.mark.parametrize("address", CLASSES)
def test_an_address_is_judged_by_what_it_is_and_by_what_it_carries(address: str) -> None:
    assert classify(address) == CLASSES[address]


@pytest.mark.parametrize("kind", [kind for kind in AddressClass if kind is not AddressClass.PROXIED])
def test_a_tenant_reaches_public_and_private_addresses_only(kind: AddressClass) -> None:
    address = next(address for address, its in CLASSES.items() if its == kind)
    ANYWHERE.check("h", address)
    policy = AddressPolicy.tenant()
    if kind in ("public", "private"):
        policy.check("h", address)
        return
    with pytest.raises(AddressRefused) as refused:
        policy.check("evil.example", address)
    assert refused.value.kind == kind
    assert "evil.example" in str(refused.value)
    assert address not in str(refused.value), "who asks learns nothing of the network behind the name"
    assert "PRESTAGE_TENANT_ALLOW" in refused.value.hint
    assert not refused.value.retryable


def test_private_addresses_are_refused_where_the_operator_says_so() -> None:
    with pytest.raises(AddressRefused) as refused:
        AddressPolicy.tenant(refuse_private=True).check("h", "10.0.0.1")
    assert "PRESTAGE_TENANT_PRIVATE=allow" in refused.value.hint


@pytest.mark.parametrize("allow", ["127.0.0.0/8", "127.0.0.1", "store.internal", ".internal", "*.internal", "STORE.internal."])
def test_what_the_operator_allows_is_allowed(allow: str) -> None:
    policy = AddressPolicy.tenant(allow=[allow])
    policy.check("store.internal", "127.0.0.1")
    policy.check("Store.Internal.", "::ffff:127.0.0.1")
    for host, address in (("other.example", "169.254.169.254"), ("internal.evil", "127.1.1.1" if "/" not in allow else "::1")):
        with pytest.raises(AddressRefused):
            policy.check(host, address)


def test_a_suffix_stands_for_what_is_below_it_and_not_for_a_name_that_ends_alike() -> None:
    policy = AddressPolicy.tenant(allow=[".corp.example"])
    policy.check("a.b.corp.example", "127.0.0.1")
    for host in ("corp.example", "evilcorp.example"):
        with pytest.raises(AddressRefused):
            policy.check(host, "127.0.0.1")


@pytest.mark.parametrize("entry", ["", "http://host/", "10.0.0.0/33", "a b", "host:80", "-", "*"])
def test_what_is_neither_host_nor_network_is_a_mistake_of_configuration(entry: str) -> None:
    with pytest.raises(Misconfigured, match="PRESTAGE_TENANT_ALLOW"):
        AddressPolicy.tenant(allow=[entry])


def test_the_environment_says_what_tenants_may() -> None:
    environ = {"PRESTAGE_TENANT_ALLOW": "10.0.0.0/8, .svc minio", "PRESTAGE_TENANT_PRIVATE": "refuse"}
    policy = AddressPolicy.tenant_from_environ({**environ, "PRESTAGE_TENANT_PROXIES": "trust"})
    assert policy.refuse_private
    assert policy.trust_proxies
    assert [str(network) for network in policy.networks] == ["10.0.0.0/8"]
    assert policy.hosts == (".svc", "minio")
    assert AddressPolicy.tenant_from_environ({}) == AddressPolicy.tenant()
    for name in ("PRESTAGE_TENANT_PRIVATE", "PRESTAGE_TENANT_PROXIES"):
        with pytest.raises(Misconfigured, match=name):
            AddressPolicy.tenant_from_environ({name: "yes"})


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "::1", "::ffff:127.0.0.1"]
)
def test_an_address_in_the_url_is_checked_even_where_a_proxy_is_trusted(host: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        AddressPolicy.tenant(trust_proxies=True).check_proxied(host)
    assert refused.value.kind == "loopback"


def test_a_name_that_only_the_proxy_resolves_is_refused_unless_the_proxy_is_trusted() -> None:
    with pytest.raises(AddressRefused) as refused:
        AddressPolicy.tenant().check_proxied("hub.example")
    assert "PRESTAGE_TENANT_PROXIES=trust" in refused.value.hint
    AddressPolicy.tenant(trust_proxies=True).check_proxied("hub.example")
    AddressPolicy.tenant(allow=["hub.example"]).check_proxied("hub.example")
    ANYWHERE.check_proxied("hub.example")


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_no_better_in_ipv6_clothes(address: ipaddress.IPv4Address) -> None:
    number, plain = int(address), classify(str(address))
    mapped = ipaddress.IPv6Address(0xFFFF << 32 | number)
    nat64 = ipaddress.IPv6Address(0x64_FF9B << 96 | number)
    sixtofour = ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1)
    for dressed in (mapped, nat64, sixtofour):
        assert classify(str(dressed)) == plain


@given(st.ip_addresses(v=6))
def test_every_address_has_a_class(address: ipaddress.IPv6Address) -> None:
    assert classify(str(address)) in AddressClass
