"""Who calls: SO_PEERCRED of the unix socket. The kernel says it, nobody can forge it."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from prestage.cacher.agent.config import AgentConfig
from prestage.cacher.errors import Denied

_UCRED = struct.Struct("3i")


class Role(IntEnum):
    """What somebody may do; a higher one may do what a lower one may."""

    NOBODY = 0
    READER = 1
    """Look, resolve, hold, report."""
    ADMIN = 2
    """Everything."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def caller_of(sock: socket.socket) -> Caller:
    """Who connected."""
    return Caller(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def role_of(caller: Caller, config: AgentConfig) -> Role:
    """Root, the agent's own user and the admins may do everything; readers look; nobody else gets in."""
    if caller.uid in (0, os.geteuid()) or caller.uid in config.admins:
        return Role.ADMIN
    return Role.READER if caller.uid in config.readers else Role.NOBODY


def check(caller: Caller, config: AgentConfig, needed: Role) -> None:
    """Raises Denied when `caller` may not do what takes `needed`."""
    if role_of(caller, config) < needed:  # NOBODY is needed on a narrow socket: whoever reaches it is meant
        option = "--admin-uid" if needed is Role.ADMIN else "--reader-uid"
        raise Denied(
            f"user {caller.uid} may not do this here", hint=f"start the agent with {option} {caller.uid}, or run as its user"
        )
