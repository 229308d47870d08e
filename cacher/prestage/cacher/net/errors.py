"""How an exchange fails below HTTP."""

from __future__ import annotations


class NetError(Exception):
    """The exchange failed below HTTP. `reason` is one of the words below; `retryable` says whether again may help.

    Reasons: `dns`, `refused`, `connect-timeout`, `tls`, `proxy`, `reset`, `stalled`, `short` (ended before its length),
    `garbage` (not HTTP), `too-large`, `redirects`, `forbidden` (AddressRefused), `aborted` (the caller's own wish),
    `mirror` (a nearer copy did not serve, whatever it answered).
    """

    def __init__(self, reason: str, detail: str, *, retryable: bool = True) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retryable = retryable


class AddressRefused(NetError):
    """The policy forbids this connection; nothing was sent. `hint`: what the operator may set."""

    def __init__(self, host: str, kind: str, hint: str) -> None:
        super().__init__("forbidden", f"{host!r} is at a {kind} address, which a ref like this may not reach", retryable=False)
        self.host = host
        self.kind = kind
        self.hint = hint
