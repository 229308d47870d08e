"""Who asks. The API server says whose a token is; what it may ask is decided here.

    node       the service account of our DaemonSet, with the claim of the node that its pod runs on
    planner    the service account of the planner
    pod        any service account, bound to a pod; with the audience of pods, never that of the broker

A yes is kept for `KEPT_S` under the token's hash; a no for a moment, so that rubbish does not reach the API server each time.
Pods' tokens are asked about every time: a pod that is gone has none.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prestage.api.brokerage import AUDIENCE, POD_AUDIENCE
from prestage.control.broker.refusals import denied
from prestage.kube.ports import Api
from prestage.kube.resources import TOKEN_REVIEWS

KEPT_S: Final = 60.0
_REFUSED_S: Final = 5.0
_KEPT_MOST: Final = 4096
_AT_ONCE: Final = 16
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,8192}\.[A-Za-z0-9_-]{1,8192}\.[A-Za-z0-9_-]{1,8192}", re.ASCII)
_CLAIM: Final = "authentication.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Review:
    """What the API server says about a token."""

    user: str
    claims: Mapping[str, str]

    def claim(self, name: str) -> str | None:
        """node-name, node-uid, pod-name, pod-uid."""
        return self.claims.get(_CLAIM + name)


@dataclass(frozen=True, slots=True)
class Node:
    """A node's agent or csi."""

    name: str
    uid: str | None


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod by its own token. `node`: None where the API server does not say (before 1.32)."""

    namespace: str
    service_account: str
    name: str
    uid: str
    node: str | None


@dataclass(frozen=True, slots=True)
class Accounts:
    """Our own service accounts, in our namespace."""

    namespace: str
    node: str = "prestage-node"
    planner: str = "prestage-planner"

    def user(self, account: str) -> str:
        """As a TokenReview has it."""
        return f"system:serviceaccount:{self.namespace}:{account}"


def node_of(review: Review, accounts: Accounts) -> Node:
    """Raises No where it is none of our nodes."""
    if review.user != accounts.user(accounts.node):
        raise denied("NotANode", f"{review.user} is not our agent on a node")
    name = review.claim("node-name")
    if not name:
        hint = "Kubernetes 1.32 or later is needed (claims of the node in service account tokens)"
        raise denied("NoNodeClaim", "the token does not say on which node it is used", hint)
    return Node(name, review.claim("node-uid"))


def check_planner(review: Review, accounts: Accounts) -> None:
    """Raises No where it is not the planner."""
    if review.user != accounts.user(accounts.planner):
        raise denied("NotThePlanner", f"{review.user} may not have things resolved")


def pod_of(review: Review) -> Pod:
    """Raises No where the token is bound to no pod."""
    words = review.user.split(":")
    name, uid = review.claim("pod-name"), review.claim("pod-uid")
    if len(words) != 4 or words[:2] != ["system", "serviceaccount"] or not name or not uid:
        raise denied("NotBoundToAPod", "the token is bound to no pod")
    return Pod(words[2], words[3], name, uid, review.claim("node-name"))


class Reviewer:
    """Asks the API server."""

    def __init__(self, api: Api, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._clock = api, clock
        self._known: dict[bytes, tuple[Review | None, float]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def ours(self, token: str) -> Review:
        """A token for the broker.

        Raises:
            No: it is none, or for others.
        """
        key = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._known.get(key)
        if known is not None and known[1] > self._clock():
            review = known[0]
        else:
            review = await self._asked(token, AUDIENCE)
            self._keep(key, review)
        return _or_denied(review)

    async def pods(self, token: str) -> Review:
        """A pod's own token.

        Raises:
            No: it is none, or for others.
        """
        return _or_denied(await self._asked(token, POD_AUDIENCE))

    def _keep(self, key: bytes, review: Review | None) -> None:
        if len(self._known) >= _KEPT_MOST:
            now = self._clock()
            self._known = {one: known for one, known in self._known.items() if known[1] > now and known[0] is not None}
        if len(self._known) < _KEPT_MOST:
            self._known[key] = (review, self._clock() + (KEPT_S if review is not None else _REFUSED_S))

    async def _asked(self, token: str, audience: str) -> Review | None:
        if not _TOKEN.fullmatch(token):
            return None
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        async with self._slots:
            answer = await self._api.create(TOKEN_REVIEWS, asked)
        return review_in(answer.get("status"), audience)


def review_in(status: object, audience: str) -> Review | None:
    """None: the API server says no. An authenticator that knows no audiences answers without them: that is a no."""
    if not isinstance(status, Mapping) or status.get("authenticated") is not True:
        return None
    audiences, user = status.get("audiences"), status.get("user")
    if not isinstance(audiences, list) or audience not in audiences or not isinstance(user, Mapping):
        return None
    extra = user.get("extra")
    claims = {}
    for name, values in extra.items() if isinstance(extra, Mapping) else ():
        if isinstance(values, list) and len(values) == 1:
            claims[str(name)] = str(values[0])
    return Review(str(user.get("username", "")), claims)


def _or_denied(review: Review | None) -> Review:
    if review is None:
        raise denied("NotAuthenticated", "the API server does not know this token, or it is for another audience")
    return review
