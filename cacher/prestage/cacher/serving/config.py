"""Every number that serving works by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from prestage.cacher.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """Settings of one server of blobs."""

    root: Path
    """The store. Only read."""
    token_file: Path
    """One token a line, `#` begins a comment; each of them lets in. Read again when it changes."""
    host: str = "127.0.0.1"
    """Address to listen on, IPv4 or IPv6."""
    port: int = 0
    """0: any free one; `Serving.port` says which."""
    workers: int = 2
    """Processes. One sends 3-4 GB/s on a core of its own (docs/serving.md)."""
    connections: int = 512
    """Most connections of all workers together; one more is answered 503."""
    connections_per_peer: int = 64
    """Most connections of one address to one worker; an engine opens 32 at most (`transfer.limits`)."""
    rate_bytes_per_s: float | None = None
    """Upload cap over all workers together; `Serving.set_rate` changes it while it runs."""
    head_s: float = 10.0
    """Longest time from the first byte of a request to the end of its head."""
    keep_alive_s: float = 60.0
    """An idle connection is closed after so long."""
    idle_s: float = 30.0
    """A reader that takes less than `slow_bytes_per_s` over so long is cut off."""
    slow_bytes_per_s: int = 1024
    """What counts as no progress; the same floor as our client's (`net.config`)."""
    wait_s: float = 30.0
    """Longest time a long-poll is held."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 64:
            raise Misconfigured(f"{self.workers} workers cannot serve", hint="give 1 to 64; one for each 25 Gbit/s is enough")
        if self.connections < 1 or self.connections_per_peer < 1:
            raise Misconfigured("serving needs at least one connection", hint="leave the limits at their defaults")
        if self.rate_bytes_per_s is not None and self.rate_bytes_per_s <= 0:
            raise Misconfigured("a rate cap must be above zero", hint="leave it out for none")

    def to_json(self) -> str:
        """For a worker's command line; holds no secret."""
        return json.dumps({**asdict(self), "root": str(self.root), "token_file": str(self.token_file)})

    @staticmethod
    def from_json(text: str) -> ServingConfig:
        """What `to_json` wrote."""
        fields = json.loads(text)
        return ServingConfig(**{**fields, "root": Path(fields["root"]), "token_file": Path(fields["token_file"])})
