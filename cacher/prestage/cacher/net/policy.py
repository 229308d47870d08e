"""Which addresses a client may connect to, decided on the resolved address at connect time. Pure.

    ANYWHERE   the command line and the admin socket: what a person of this machine may reach anyway
    tenant     refs that came from a pod or a tenant: never this machine, its link, or a cloud's metadata service

A name is only a promise: what is checked is the very address that is then connected to, for every connection, hence for
every redirect. An IPv6 address that carries an IPv4 one (mapped, compatible, translated, NAT64, 6to4, Teredo) is judged by
what it carries as well. Unusual spellings (0x7f.1, 2130706433, 017700000001) are addresses by the time they come here.

What cannot be checked: a name that a proxy resolves. It is refused, or left to the proxy where the operator says so; an
address that stands in the URL is checked even then. A NAT64 prefix of a network's own is not known here.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from prestage.cacher.errors import Misconfigured
from prestage.cacher.net.errors import AddressRefused

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HOST = re.compile(r"\.?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
ALLOW, PRIVATE, PROXIES = "PRESTAGE_TENANT_ALLOW", "PRESTAGE_TENANT_PRIVATE", "PRESTAGE_TENANT_PROXIES"


class AddressClass(StrEnum):
    """What an address is for."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "cloud metadata"
    """Services of a cloud that hand out credentials and lie outside the link-local range."""
    UNSPECIFIED = "unspecified"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    PROXIED = "known to the proxy only"


# The first that holds an address decides. IANA's special-purpose registries (RFC 6890 and its updates), and the vendors' manuals.
_CLASSES: tuple[tuple[AddressClass, tuple[str, ...]], ...] = (
    (AddressClass.UNSPECIFIED, ("0.0.0.0/8", "::/128")),
    (AddressClass.LOOPBACK, ("127.0.0.0/8", "::1/128")),
    (AddressClass.LINK_LOCAL, ("169.254.0.0/16", "fe80::/10")),
    # Azure's wire server, Alibaba, Oracle; AWS and GCE over IPv6
    (AddressClass.METADATA, ("168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::/32", "fd20:ce::/32")),
    (AddressClass.MULTICAST, ("224.0.0.0/4", "ff00::/8")),
    (AddressClass.RESERVED, ("240.0.0.0/4", "100::/64", "64:ff9b:1::/48")),
    (AddressClass.PRIVATE, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "192.0.0.0/24")),
    (AddressClass.PRIVATE, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "fc00::/7", "fec0::/10", "2001:db8::/32")),
)
_TABLE = tuple((kind, tuple(ipaddress.ip_network(text) for text in texts)) for kind, texts in _CLASSES)
_STRICTNESS = {AddressClass.PUBLIC: 0, AddressClass.PRIVATE: 1}
_LAST_32 = tuple(ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def classify(address: str) -> AddressClass:
    """The class of a numeric address, by what it carries too; a zone (`%eth0`) is left aside.

    Raises:
        ValueError: not an address.
    """
    return max((_own_class(face) for face in _faces(address)), key=lambda kind: _STRICTNESS.get(kind, 2))


def _faces(address: str) -> list[_Address]:
    """The address itself, and the IPv4 addresses inside it."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return [found]
    low = int(found) & 0xFFFFFFFF
    if found.sixtofour is not None:
        return [found, found.sixtofour]
    if found.teredo is not None:
        return [found, *found.teredo]
    if any(found in network for network in _LAST_32) or (low > 1 and found in _COMPATIBLE):
        return [ipaddress.IPv4Address(low)]
    return [found]


def _own_class(address: _Address) -> AddressClass:
    return next((kind for kind, networks in _TABLE if any(address in network for network in networks)), AddressClass.PUBLIC)


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Says yes or no to one address at a time. Make it by `tenant`, or take `ANYWHERE`."""

    is_restricted: bool = False
    refuse_private: bool = False
    trust_proxies: bool = False
    networks: tuple[_Network, ...] = ()
    """Allowed whatever their class."""
    hosts: tuple[str, ...] = ()
    """Names allowed whatever they resolve to; one that begins with a dot stands for everything below it."""

    @staticmethod
    def tenant(*, allow: Iterable[str] = (), refuse_private: bool = False, trust_proxies: bool = False) -> AddressPolicy:
        """For refs that others wrote. `allow` holds networks, addresses, host names and `.suffixes`.

        Raises:
            Misconfigured: an entry that is none of them.
        """
        networks, hosts = list[_Network](), list[str]()
        for entry in allow:
            text = entry.strip().lower().removeprefix("*").rstrip(".")
            try:
                networks.append(ipaddress.ip_network(text.strip("[]"), strict=False))
            except ValueError:
                if not _HOST.fullmatch(text):
                    hint = "write hosts, .suffixes, addresses or networks: minio.storage.svc .corp.example 10.0.0.0/8"
                    raise Misconfigured(f"{entry!r} in {ALLOW} is no host and no network", hint=hint) from None
                hosts.append(text)
        return AddressPolicy(True, refuse_private, trust_proxies, tuple(networks), tuple(hosts))

    @staticmethod
    def tenant_from_environ(environ: Mapping[str, str]) -> AddressPolicy:
        """By PRESTAGE_TENANT_ALLOW (a list), PRESTAGE_TENANT_PRIVATE=allow|refuse, PRESTAGE_TENANT_PROXIES=refuse|trust.

        Raises:
            Misconfigured: a value that is not one of these.
        """
        private = environ.get(PRIVATE) or "allow"
        proxies = environ.get(PROXIES) or "refuse"
        if private not in ("allow", "refuse"):
            raise Misconfigured(f"{PRIVATE} is {private!r}", hint="write allow or refuse")
        if proxies not in ("refuse", "trust"):
            raise Misconfigured(f"{PROXIES} is {proxies!r}", hint="write refuse or trust")
        allow = environ.get(ALLOW, "").replace(",", " ").split()
        return AddressPolicy.tenant(allow=allow, refuse_private=private == "refuse", trust_proxies=proxies == "trust")

    def check(self, host: str, address: str) -> None:
        """May a request for `host` go to this numeric `address`?

        Raises:
            AddressRefused: no; names the host and the class, not the address.
        """
        if not self.is_restricted or self._names(host):
            return
        try:
            kind = classify(address)
            if any(face in network for face in _faces(address) for network in self.networks):
                return
        except ValueError:
            kind = AddressClass.RESERVED
        if kind is AddressClass.PUBLIC or (kind is AddressClass.PRIVATE and not self.refuse_private):
            return
        more = f", or {PRIVATE}=allow for every private one" if kind is AddressClass.PRIVATE else ""
        raise AddressRefused(host, kind, f"the operator may allow it: its host or network in {ALLOW}{more}")

    def check_proxied(self, host: str) -> None:
        """May a request for `host` go through a proxy, which resolves it by itself?

        Raises:
            AddressRefused: no.
        """
        if not self.is_restricted or self._names(host):
            return
        literal = _literal(host)
        if literal is not None:
            self.check(host, literal)
        elif not self.trust_proxies:
            hint = f"the operator may set {PROXIES}=trust (the proxy then decides), put it into NO_PROXY, or into {ALLOW}"
            raise AddressRefused(host, AddressClass.PROXIED, hint)

    def _names(self, host: str) -> bool:
        host = host.lower().rstrip(".")
        return any(host == name or (name.startswith(".") and host.endswith(name)) for name in self.hosts)


def _literal(host: str) -> str | None:
    """The address that `host` is in any spelling that resolvers take for one; None for a name."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


ANYWHERE = AddressPolicy()
