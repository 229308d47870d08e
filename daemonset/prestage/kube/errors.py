"""What the API server says no with, told apart by what the caller does next.

PrestageError
├── Misconfigured ── Invalid      the object is not what the API says: change it
│                 └─ NoCluster    no kubeconfig, or one that leads nowhere
├── NotFound ────── Missing       no such object (or kind): make it, or look elsewhere
├── Denied ──────── Forbidden     RBAC or admission says no: the message names verb and resource
├── Busy ────────── Conflict      somebody else wrote meanwhile: read again, decide again
└── Unavailable ─── Gone          that resourceVersion is forgotten: list again
                 ├─ TooMany       told to slow down for longer than the deadline allows
                 └─ Unreachable   no answer within the deadline, or one that may pass
"""

from __future__ import annotations

from prestage.cacher import errors


class Invalid(errors.Misconfigured):
    """400, 415, 422: the message is the API server's, which names field and rule."""


class NoCluster(errors.Misconfigured):
    """Nothing says which API server is meant, or how to be let in."""


class Missing(errors.NotFound):
    """404."""


class Forbidden(errors.Denied):
    """401, 403."""


class Conflict(errors.Busy):
    """409: it exists already, its resourceVersion is another, or a field is another manager's."""


class Gone(errors.Unavailable):
    """410: what was asked for lies before the last compaction."""


class TooMany(errors.Unavailable):
    """429 to the end."""


class Unreachable(errors.Unavailable):
    """Nobody answered in time, or only with 5xx."""
