"""May this pod mount these? Asked of the API server (is the token the pod's?) and of the broker; answers are kept.

kept and fresh              no question to the broker
kept, valid, not fresh      used only where the broker cannot be asked
the API server is away      what is kept counts: namespace and service account are the kubelet's word

<folder>/grants/<key>.json  one answer; no token is ever written
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

import msgspec

from prestage.api.brokerage import POD_AUDIENCE, MountsAnswer, MountsRequest, WantedMount
from prestage.cacher.agent.logs import log
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, Denied, PrestageError, Unavailable
from prestage.kube.ports import Api
from prestage.kube.resources import TOKEN_REVIEWS
from prestage.node.csi.asking import Asked

POD_UID = "authentication.kubernetes.io/pod-uid"
ASK_S, ASK_KEPT_S = 20.0, 3.0
"""How long the broker may take: while a pod waits for it, and where an answer is kept."""


class Broker(Protocol):
    """What is asked: `BrokerClient`."""

    async def mounts(self, request: MountsRequest, *, deadline_s: float | None = None) -> MountsAnswer:
        """All of them, or the cacher's error of the refusal's class."""
        ...


def key_of(asked: Asked) -> str:
    """The same for pods that get the same answer. Where admission wrote no artifact, the answer is about the pod's template."""
    models = sorted((one.alias, one.ref, one.artifact) for one in asked.models)
    about = [asked.pod.namespace, asked.pod.service_account, models]
    if any(one.artifact is None for one in asked.models):
        about.append(asked.pod.uid)
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def filled(asked: Asked, answer: MountsAnswer) -> Asked:
    """The question of the next pod of that template: admission knows the artifact by then, and writes it."""
    granted = {one.alias: ArtifactId(one.artifact) for one in answer.models}
    return replace(asked, models=tuple(replace(one, artifact=granted[one.alias]) for one in asked.models))


class KeptGrants:
    """Answers on disk. Blocks: small files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "grants"

    def get(self, key: str, now: float) -> MountsAnswer | None:
        """One that is still valid."""
        try:
            answer = msgspec.json.decode((self._folder / f"{key}.json").read_bytes(), type=MountsAnswer)
        except (OSError, msgspec.DecodeError):
            return None
        return answer if now < answer.valid_until else None

    def keep(self, key: str, answer: MountsAnswer, now: float) -> None:
        """Durable; what is over goes."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in list(self._folder.glob("*.json")):
            if self.get(path.stem, now) is None:
                path.unlink(missing_ok=True)
        beside = self._folder / f".{key}.new"
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(answer))
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self._folder / f"{key}.json")

    def drop(self, key: str) -> None:
        """Idempotent."""
        with suppress(OSError):
            (self._folder / f"{key}.json").unlink()


class Authoriser:
    """See the module."""

    def __init__(self, api: Api, broker: Broker, kept: KeptGrants, *, wall: Callable[[], float] = time.time) -> None:
        self._api, self._broker, self._kept, self._wall = api, broker, kept, wall

    async def authorise(self, asked: Asked) -> MountsAnswer:
        """The broker's answer, now or as it is kept.

        Raises:
            Denied: it is not that pod's token, or no grant.
            Unavailable, Busy: ask again.
            PrestageError: as the broker says.
        """
        key, now = key_of(asked), self._wall()
        kept = self._kept.get(key, now)
        if not await self._is_reviewed(asked):
            if kept is None:
                raise Unavailable(
                    "the API server does not answer", hint="the pod's token cannot be looked at; the kubelet asks again"
                )
            log("granted_from_before", fields={"pod": asked.pod.uid, "why": "the API server is away"})
            return kept
        if kept is not None and now < kept.fresh_until:
            return kept
        try:
            answer = await self._broker.mounts(self._request(asked), deadline_s=ASK_S if kept is None else ASK_KEPT_S)
        except (Unavailable, Busy) as exc:
            if kept is None:
                raise
            log("granted_from_before", fields={"pod": asked.pod.uid, "why": exc.message})
            return kept
        except PrestageError:
            self._kept.drop(key)
            raise
        _check(asked, answer)
        try:
            for one in {key, key_of(filled(asked, answer))}:
                self._kept.keep(one, answer, now)
        except OSError as exc:
            log("grant_not_kept", fields={"message": str(exc)})
        return answer

    def _request(self, asked: Asked) -> MountsRequest:
        models = [WantedMount(alias=one.alias, ref=one.ref, artifact=one.artifact) for one in asked.models]
        return MountsRequest(pod=asked.pod, pod_token=asked.token or "", models=models)

    async def _is_reviewed(self, asked: Asked) -> bool:
        """False: nobody could say. Denied: it is not that pod's."""
        if not asked.token:
            hint = f"the CSIDriver object needs tokenRequests: [{{audience: {POD_AUDIENCE}}}]"
            raise Denied("the volume came without the pod's own token", hint=hint)
        body = {"spec": {"token": asked.token, "audiences": [POD_AUDIENCE]}}
        try:
            seen = await self._api.create(TOKEN_REVIEWS, body)
        except Unavailable:
            return False
        if (why := refusal(asked, seen.get("status"))) is not None:
            raise Denied(
                f"the token is not that of pod {asked.pod.name}: {why}", hint="volumes are mounted for their own pod only"
            )
        return True


def refusal(asked: Asked, status: object) -> str | None:
    """Why a reviewed token is not the pod's; None: it is. Pure."""
    if not isinstance(status, Mapping) or status.get("authenticated") is not True:
        return "it is not valid"
    user = cast("Mapping[str, object]", status.get("user") or {})
    extra = cast("Mapping[str, object]", user.get("extra") or {})
    if POD_AUDIENCE not in cast("list[str]", status.get("audiences") or []):
        return "it is for another audience"
    if user.get("username") != f"system:serviceaccount:{asked.pod.namespace}:{asked.pod.service_account}":
        return "it is another service account's"
    if extra.get(POD_UID) != [asked.pod.uid]:
        return "it is not bound to that pod"
    return None


def _check(asked: Asked, answer: MountsAnswer) -> None:
    """The answer is to the question."""
    granted = {one.alias: one.artifact for one in answer.models}
    for model in asked.models:
        artifact = granted.get(model.alias)
        if artifact is None or (model.artifact is not None and artifact != model.artifact):
            raise Denied(f"the broker granted something else for {model.alias}", hint="please report it")
