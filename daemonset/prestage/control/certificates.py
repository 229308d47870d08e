"""The serving certificate of a Service of ours, by an authority of its own: no cert-manager, nothing to install.

    Secret <service>-tls      ca.crt (authorities, newest first), ca.key (the newest's), tls.crt, tls.key
    ConfigMap <service>-ca    ca.crt: what clients trust. Mounted as a file, and read again when it changes

    both, by age       the certificate is made anew at 2/3 of its life, the authority at 2/3 of its own
    overlap            a new authority is trusted (published) for `settle` before it signs; the old one is trusted to its end
    replicas           one Secret: who writes second reads what the first wrote

What to do is decided by `due`, which is pure; `serving_certificate` does it; `Serving` goes on doing it for a TLS context.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import ipaddress
import logging
import os
import random
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prestage.cacher.errors import Busy, PrestageError
from prestage.kube.errors import Conflict, Missing
from prestage.kube.ports import Api, Object
from prestage.kube.resources import CONFIG_MAPS, SECRETS

AUTHORITIES: Final = "ca.crt"
_AUTHORITY_KEY, _CHAIN, _KEY = "ca.key", "tls.crt", "tls.key"
_BACKDATED = datetime.timedelta(minutes=5)
"""Clocks of a cluster differ."""
_ROUNDS = 8
_LOGGER = logging.getLogger("prestage")


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things last."""

    authority: datetime.timedelta = datetime.timedelta(days=365)
    certificate: datetime.timedelta = datetime.timedelta(days=30)
    settle: datetime.timedelta = datetime.timedelta(hours=1)
    """How long a new authority is trusted before it signs: a ConfigMap is a file in every pod after some two minutes."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What the Secret holds. PEM."""

    authorities: bytes
    authority_key: bytes = field(repr=False)
    chain: bytes
    key: bytes = field(repr=False)


class Due(StrEnum):
    """What is to be made now."""

    NOTHING = "nothing"
    EVERYTHING = "everything"
    AUTHORITY = "authority"
    CERTIFICATE = "certificate"
    TRIM = "trim"
    """An authority is over: it leaves the list."""


class Unusable(ValueError):
    """The Secret holds something else. The message says what, and no part of a key."""


@dataclass(frozen=True, slots=True)
class _Read:
    """`Keys`, read and checked against each other."""

    authorities: tuple[x509.Certificate, ...]
    leaf: x509.Certificate


def due(held: Keys | None, names: Iterable[str], now: datetime.datetime, terms: Terms | None = None) -> Due:
    """What the Secret wants. Pure."""
    if held is None:
        return Due.EVERYTHING
    try:
        read = _read(held)
    except Unusable:
        return Due.EVERYTHING
    settle = (terms or Terms()).settle
    newest = read.authorities[0]
    if newest.not_valid_after_utc <= now:
        return Due.EVERYTHING
    if _is_late(newest, now):
        return Due.AUTHORITY
    is_foreign = not _signed_by(read.leaf, newest)
    has_settled = now - newest.not_valid_before_utc - _BACKDATED >= settle
    is_over = read.leaf.not_valid_after_utc <= now
    if is_over or _names_of(read.leaf) != frozenset(names):
        return Due.CERTIFICATE  # nobody can use what is there: at once
    if has_settled and (is_foreign or _is_late(read.leaf, now)):
        return Due.CERTIFICATE
    return Due.TRIM if any(one.not_valid_after_utc <= now for one in read.authorities) else Due.NOTHING


def made(what: Due, held: Keys | None, names: Iterable[str], now: datetime.datetime, terms: Terms | None = None) -> Keys:
    """The next state of the Secret. `what`: from `due` of the same state."""
    terms = terms or Terms()
    if what is Due.EVERYTHING or held is None:
        authorities, authority_key = _authority(now, terms)
        return Keys(authorities, authority_key, *_certificate(authorities, authority_key, names, now, terms))
    if what is Due.AUTHORITY:
        newest, authority_key = _authority(now, terms)
        return Keys(newest + _living(held.authorities, now), authority_key, held.chain, held.key)
    living = _living(held.authorities, now)
    if what is Due.CERTIFICATE:
        return Keys(living, held.authority_key, *_certificate(living, held.authority_key, names, now, terms))
    return Keys(living, held.authority_key, held.chain, held.key)


def service_names(namespace: str, service: str, more: Iterable[str] = ()) -> frozenset[str]:
    """How a Service is called by its clients, and `more`: names and addresses."""
    return frozenset({service, f"{service}.{namespace}", f"{service}.{namespace}.svc", *more})


async def serving_certificate(
    api: Api,
    namespace: str,
    service: str,
    *,
    names: Iterable[str] = (),
    terms: Terms | None = None,
    clock: Callable[[], datetime.datetime] | None = None,
) -> Keys:
    """The keys to serve with now, made or made anew where that is due, and their authorities published.

    `names` beside the Service's own. Safe to call from every replica at any time.

    Raises:
        Busy: others kept writing the Secret.
        PrestageError: the API server says no, or does not answer.
    """
    wanted = service_names(namespace, service, names)
    clock = clock or _utc
    for _ in range(_ROUNDS):
        seen = await _seen(api, namespace, service)
        held = None if seen is None else keys_in(seen)
        what = due(held, wanted, clock(), terms)
        if what is Due.NOTHING and held is not None:
            await _publish(api, namespace, service, held)
            return held
        fresh = made(what, held, wanted, clock(), terms)
        if what is Due.CERTIFICATE and held is not None:
            await _publish(api, namespace, service, held)  # trusted before it is used, whoever was killed in between
        try:
            await _write(api, namespace, service, fresh, seen)
        except (Conflict, Missing):
            continue
        _LOGGER.info("certificate-made", extra={"fields": {"service": service, "what": str(what)}})
    raise Busy(f"Secret {namespace}/{service}-tls: others kept writing it", hint="only one installation may use this namespace")


def keys_in(secret: Object) -> Keys | None:
    """What a Secret holds; None where a part is missing or is no base64."""
    data = secret.get("data")
    if not isinstance(data, Mapping):
        return None
    try:
        parts = [base64.b64decode(str(data[name]), validate=True) for name in (AUTHORITIES, _AUTHORITY_KEY, _CHAIN, _KEY)]
    except (KeyError, binascii.Error):
        return None
    return Keys(*parts)


class Serving:
    """A TLS context that is kept fresh: connections made after a rotation get the new certificate, others live on."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        service: str,
        *,
        names: Iterable[str] = (),
        terms: Terms | None = None,
        on_change: Callable[[Keys], None] | None = None,
    ) -> None:
        self._api, self._namespace, self._service = api, namespace, service
        self._names, self._terms, self._on_change = tuple(names), terms, on_change
        self._held: Keys | None = None
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    async def refresh(self) -> Keys:
        """Once. Raises as `serving_certificate`."""
        keys = await serving_certificate(self._api, self._namespace, self._service, names=self._names, terms=self._terms)
        if keys != self._held:
            load(self.context, keys)
            self._held = keys
            if self._on_change is not None:
                self._on_change(keys)
        return keys

    async def run(self, every_s: float = 300.0) -> None:
        """For ever. What cannot be done now is logged, and tried again."""
        while True:
            await asyncio.sleep(every_s * random.uniform(0.8, 1.2))  # noqa: S311  jitter, no secret
            try:
                await self.refresh()
            except PrestageError as exc:
                _LOGGER.warning("certificate-kept", extra={"fields": {"service": self._service, "why": str(exc)}})


def load(context: ssl.SSLContext, keys: Keys) -> None:
    """Into a server's context. The key touches no disk."""
    fd = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(fd, keys.chain + keys.key)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


async def _seen(api: Api, namespace: str, service: str) -> Object | None:
    try:
        return await api.get(SECRETS, f"{service}-tls", namespace=namespace)
    except Missing:
        return None


async def _write(api: Api, namespace: str, service: str, keys: Keys, seen: Object | None) -> None:
    parts = {AUTHORITIES: keys.authorities, _AUTHORITY_KEY: keys.authority_key, _CHAIN: keys.chain, _KEY: keys.key}
    data = {name: base64.b64encode(value).decode() for name, value in parts.items()}
    if seen is not None:
        await api.replace(SECRETS, {**seen, "data": data})
        return
    head = {"name": f"{service}-tls", "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "prestage"}}
    await api.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": head, "type": "Opaque", "data": data})


async def _publish(api: Api, namespace: str, service: str, keys: Keys) -> None:
    name, text = f"{service}-ca", keys.authorities.decode()
    try:
        there = await api.get(CONFIG_MAPS, name, namespace=namespace)
        if there.get("data") == {AUTHORITIES: text}:
            return
    except Missing:
        pass
    head = {"name": name, "namespace": namespace}
    await api.apply(CONFIG_MAPS, {"metadata": head, "data": {AUTHORITIES: text}}, manager=service, force=True)


def _utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _read(held: Keys) -> _Read:
    try:
        authorities = tuple(x509.load_pem_x509_certificates(held.authorities))
        leaf = x509.load_pem_x509_certificates(held.chain)[0]
        keys = [serialization.load_pem_private_key(pem, None) for pem in (held.authority_key, held.key)]
    except (ValueError, TypeError, IndexError) as exc:
        raise Unusable("the Secret holds no certificates and keys") from exc
    if not any(_signed_by(leaf, one) for one in authorities):
        raise Unusable("none of its authorities signed its certificate")
    for certificate, key in zip((authorities[0], leaf), keys, strict=True):
        if certificate.public_key() != key.public_key():
            raise Unusable("a key in it is not its certificate's")
    return _Read(authorities, leaf)


def _signed_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_late(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    """Two thirds of its life are over."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_before_utc + life * 2 / 3


def _names_of(leaf: x509.Certificate) -> frozenset[str]:
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = (str(one) for one in found.get_values_for_type(x509.IPAddress))
    return frozenset((*found.get_values_for_type(x509.DNSName), *addresses))


def _living(authorities: bytes, now: datetime.datetime) -> bytes:
    read = x509.load_pem_x509_certificates(authorities)
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in read if one.not_valid_after_utc > now)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _authority(now: datetime.datetime, terms: Terms) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"prestage {serial:040x}"[:30])])  # two never share a name
    made = (
        _builder(name, name, key.public_key(), serial, now, now + terms.authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), _pem(key)


def _certificate(
    authorities: bytes, authority_key: bytes, names: Iterable[str], now: datetime.datetime, terms: Terms
) -> tuple[bytes, bytes]:
    authority = x509.load_pem_x509_certificates(authorities)[0]
    signer = serialization.load_pem_private_key(authority_key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    ordered = sorted(names)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, min(ordered, key=len)[:64])])
    end = min(now + terms.certificate, authority.not_valid_after_utc)
    leaf = (
        _builder(subject, authority.subject, key.public_key(), x509.random_serial_number(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in ordered]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return leaf.public_bytes(serialization.Encoding.PEM), _pem(key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    serial: int,
    now: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key, serial_number=serial)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
