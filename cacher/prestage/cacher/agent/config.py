"""Every setting of the agent. Built once, at the composition root; flags, environment and defaults are read there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.agent.listening import check_path
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.transfer.limits import Limits
from prestage.cacher.transfer.schedule import Schedule


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """See the fields."""

    root: Path
    """The store."""
    socket: Path
    """Where the API listens. Mode 0600, or 0666 when other users are let in: then SO_PEERCRED alone decides."""
    budget_bytes: int | None = None
    """Most bytes the store may hold; None: what the disk has, less the margin."""
    margin_bytes: int | None = None
    """Left free on the disk; None: see `store/margin.py`."""
    listen: tuple[str, int] | None = ("127.0.0.1", 0)
    """Host and port of metrics and health; port 0: any, said in the log; None: not at all."""
    admins: frozenset[int] = frozenset()
    """Uids that may do everything, beside root and the agent's own."""
    readers: frozenset[int] = frozenset()
    """Uids that may look, resolve and hold."""
    limits: Limits = field(default_factory=lambda: Limits(niceness=10))
    """Of the engine. niceness 10: the node serves GPUs."""
    rate: Schedule | None = None
    """Most bytes a second in, by time of day; None: unlimited."""
    serving: ServingConfig | None = None
    """Blobs for peers over TCP; None: not at all."""
    serving_rate: Schedule | None = None
    """Most bytes a second out, by time of day; None: unlimited."""
    trusted: Collection[str] = frozenset()
    """Origin authorities whose stated digests are believed."""
    stages_max: int = 16
    """Stages that run at once; a waiting pod's runs whatever their number."""
    waiting_stages_max: int = 64
    """Stages of waiting pods that run at once beyond these."""
    drain_s: float = 5.0
    """How long the end may take: transfers are cut off and journaled, streams are told."""
    takeover_s: float = 60.0
    """How long a command that owns the store may take to make way."""
    pressure_interval_s: float = 2.0
    """How often the disk is looked at: a disk that another process fills is answered within 10 s."""
    care_interval_s: float = 60.0
    """How often dead holds and what they kept are dropped."""
    scrub_bytes_per_s: float = 50e6
    """How fast blobs are read again while nothing is staged: 1 TB in six hours at 3 % of a core. 0: never."""
    scrub_every_s: float = 7 * 86400.0
    """How long a blob that was found right is left alone."""
    requests_max: int = 256
    """Requests in work at once; more are answered 503."""
    listeners_max: int = 1024
    """Streams followed at once, beside those; more are answered 503."""
    idle_connection_s: float = 60.0
    """A connection without a request for so long is closed."""

    def __post_init__(self) -> None:
        check_path(self.socket)
