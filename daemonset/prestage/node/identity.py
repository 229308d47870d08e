"""Which Node we are on, as our own token has it: Kubernetes >= 1.32 writes the Node's UID into the token of a pod. Pure."""

from __future__ import annotations

import base64
import json


def node_uid_of(token: str) -> str | None:
    """None where the token does not say. Not checked: it is our own."""
    try:
        middle = token.strip().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        uid = claims["kubernetes.io"]["node"]["uid"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return uid if isinstance(uid, str) else None
