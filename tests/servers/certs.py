"""A certificate authority of the test's own, and server certificates for loopback names.

`ca` is what a client is told to trust; nothing is installed anywhere. Keys live in the given folder and are of no worth.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

LOOPBACK_NAMES = ("localhost", "*.localhost", "*.s3.localhost", "127.0.0.1", "::1")


class Authority:
    """Files in `folder`: `ca.pem` (trust this), `server.pem` (chain) and `server.key`."""

    def __init__(self, folder: Path, names: tuple[str, ...] = LOOPBACK_NAMES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self.certificate = folder / "server.pem"
        self.key = folder / "server.key"
        authority = trustme.CA()
        leaf = authority.issue_cert(*names)
        authority.cert_pem.write_to_path(str(self.ca))
        leaf.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))
