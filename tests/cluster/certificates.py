"""The cluster's own authority, a certificate for each user and server, and kubeconfigs that use them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files."""

    chain: Path
    key: Path


class Authority:
    """Writes into `folder`: `ca.crt`, and `<name>.crt` and `.key` for each certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA(organization_name="prestage tests")
        self.ca = folder / "ca.crt"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *, user: str, group: str | None = None, hosts: tuple[str, ...] = ()) -> Certificate:
        """For `user` (CN) of `group` (O), good for `hosts` where it is a server's."""
        names = hosts or ("client.invalid",)  # Go refuses an empty list of names that is marked critical
        leaf = self._ca.issue_cert(*names, common_name=user, organization_name=group)
        made = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        leaf.private_key_pem.write_to_path(str(made.key))
        made.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        made.key.chmod(0o600)
        return made

    def service_account_key(self) -> Path:
        """What signs service account tokens. SEC1: kube-apiserver refuses PKCS#8 EC keys."""
        path = self._folder / "sa.key"
        key = ec.generate_private_key(ec.SECP256R1())
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        path.chmod(0o600)
        return path

    def kubeconfig(self, path: Path, url: str, identity: Certificate) -> Path:
        """YAML is a superset of JSON."""
        cluster = {"server": url, "certificate-authority": str(self.ca)}
        user = {"client-certificate": str(identity.chain), "client-key": str(identity.key)}
        return self._write(path, cluster, user)

    def token_kubeconfig(self, path: Path, url: str, token: str) -> Path:
        """For a service account."""
        return self._write(path, {"server": url, "certificate-authority": str(self.ca)}, {"token": token})

    def _write(self, path: Path, cluster: dict[str, str], user: dict[str, str]) -> Path:
        named = {"clusters": [{"name": "it", "cluster": cluster}], "users": [{"name": "me", "user": user}]}
        context = {"name": "here", "context": {"cluster": "it", "user": "me"}}
        path.write_text(
            json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "here", "contexts": [context], **named})
        )
        path.chmod(0o600)
        return path
