"""What can go wrong, told apart by what the caller does next.

    PrestageError
    ├── Misconfigured   fix the command, the ref or the configuration; retrying is pointless
    ├── NotFound        a miss: it is not there; stage it, or name something else
    ├── Denied          get other credentials or another grant
    ├── Corrupt         bytes are not what they should be; they were quarantined, fetch them again
    ├── Busy            somebody else is at it; wait and try again
    ├── Full            no room until something is evicted or unpinned
    ├── Unavailable     the origin or the network failed for longer than the retry rules allow; try again later
    └── Bug             our fault: report it

Each message has subject, cause and next step, on one line, and never a secret. Exit codes are part of the contract
(docs/cli.md) and never change.
"""

from __future__ import annotations

from typing import ClassVar


class PrestageError(Exception):
    """Root of every error this distribution raises on purpose.

    `message` says what is wrong with which subject and why; `hint` says what to do next.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "bug"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class Bug(PrestageError):
    """A state that our own rules exclude."""


class Misconfigured(PrestageError):
    """A malformed ref, flag, file or environment variable, or a store this version must not touch."""

    exit_code = 2
    kind = "misconfigured"


class NotFound(PrestageError):
    """No such bucket, repository, revision, file or staged artifact."""

    exit_code = 3
    kind = "miss"


class Denied(PrestageError):
    """The origin refused the credential. The message names its kind and where it came from, never its value."""

    exit_code = 4
    kind = "denied"


class Corrupt(PrestageError):
    """Bytes differ from a digest, a validator or a size that was promised; nothing of it was published."""

    exit_code = 5
    kind = "corrupt"


class Busy(PrestageError):
    """Another process or a hold is in the way; nothing was changed."""

    exit_code = 6
    kind = "busy"


class Full(PrestageError):
    """The bytes do not fit; nothing was fetched. The message says what holds the room."""

    exit_code = 7
    kind = "full"


class Unavailable(PrestageError):
    """The origin or the network failed beyond the retry rules; what was journaled stays and is resumed."""

    exit_code = 8
    kind = "unavailable"
