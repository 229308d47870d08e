"""Who may mount what, by whose word, and what is kept of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from prestage.api.annotations import Layout
from prestage.api.brokerage import GrantedMount, MountsAnswer, MountsRequest, PodIdentity
from prestage.cacher.digests import ArtifactId
from prestage.cacher.errors import Busy, Denied, NotFound, PrestageError, Unavailable
from prestage.kube.ports import Api
from prestage.node.csi.asking import Asked, Wanted
from prestage.node.csi.grants import Authoriser, KeptGrants, key_of

DIGEST = ArtifactId("sha256:" + "a" * 64)


def ask(uid: str = "uid-1", artifact: ArtifactId | None = DIGEST, token: str | None = "secret-token") -> Asked:
    pod = PodIdentity(namespace="team", name="one", uid=uid, service_account="server")
    return Asked(pod, (Wanted("llama", "hf://org/llama@main", artifact),), Layout.DIRECTORY, "/models", token)


@dataclass
class Reviews:
    """An API server that knows one token of each pod."""

    status: Mapping[str, object] | None = None
    is_away: bool = False
    bodies: list[object] = field(default_factory=list)

    async def create(self, _resource: object, body: Mapping[str, object]) -> Mapping[str, object]:
        self.bodies.append(body)
        if self.is_away:
            raise Unavailable("away")
        return {"status": self.status or reviewed()}


def reviewed(uid: str = "uid-1", **changed: object) -> Mapping[str, object]:
    user = {"username": "system:serviceaccount:team:server", "extra": {"authentication.kubernetes.io/pod-uid": [uid]}}
    return {"authenticated": True, "audiences": ["prestage.dev"], "user": user, **changed}


@dataclass
class Words:
    """A broker with an answer, or an error."""

    answer: MountsAnswer | PrestageError
    asked: int = 0

    async def mounts(self, request: MountsRequest, *, deadline_s: float | None = None) -> MountsAnswer:
        self.asked += 1
        assert request.pod_token == "secret-token"
        if isinstance(self.answer, PrestageError):
            raise self.answer
        return self.answer


def grant(artifact: str = DIGEST, fresh_until: float = 100.0, valid_until: float = 1000.0) -> MountsAnswer:
    models = [GrantedMount(alias="llama", artifact=artifact, rule="it resolved it")]
    return MountsAnswer(models=models, fresh_until=fresh_until, valid_until=valid_until)


@dataclass
class Door:
    folder: Path
    reviews: Reviews = field(default_factory=Reviews)
    broker: Words = field(default_factory=lambda: Words(grant()))
    now: float = 0.0

    def __call__(self, asked: Asked) -> MountsAnswer:
        it = Authoriser(cast(Api, self.reviews), self.broker, KeptGrants(self.folder), wall=lambda: self.now)
        return asyncio.run(it.authorise(asked))


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_a_fresh_answer_is_not_asked_for_again_and_is_another_pods_too(door: Door) -> None:
    assert door(ask()) == grant()
    door.reviews.status = reviewed("uid-2")
    assert door(ask("uid-2")) == grant()
    assert door.broker.asked == 1
    door.now = 101.0
    door(ask("uid-2"))
    assert door.broker.asked == 2


def test_without_an_artifact_an_answer_is_about_one_pod() -> None:
    assert key_of(ask("uid-1")) == key_of(ask("uid-2"))
    assert key_of(ask("uid-1", artifact=None)) != key_of(ask("uid-2", artifact=None))


def test_what_a_pod_without_an_artifact_got_serves_the_next_one_that_comes_with_it(door: Door) -> None:
    door(ask("uid-1", artifact=None))
    door.reviews.status, door.broker.answer = reviewed("uid-2"), Unavailable("away")
    assert door(ask("uid-2")) == grant()
    with pytest.raises(Unavailable):
        door(ask("uid-2", artifact=ArtifactId("sha256:" + "b" * 64)))
    with pytest.raises(Unavailable):
        door(ask("uid-2", artifact=None))


@pytest.mark.parametrize("away", [Unavailable("away"), Busy("later")])
def test_a_stale_answer_serves_only_where_the_broker_cannot_be_asked(door: Door, away: PrestageError) -> None:
    door(ask())
    door.now, door.broker.answer = 500.0, away
    assert door(ask()) == grant()
    door.now = 1000.0
    with pytest.raises(type(away)):
        door(ask())


@pytest.mark.parametrize("no", [Denied("no grant"), NotFound("gone")])
def test_a_refusal_ends_what_was_kept(door: Door, no: PrestageError) -> None:
    door(ask())
    door.now, door.broker.answer = 500.0, no
    with pytest.raises(type(no)):
        door(ask())
    door.broker.answer = Unavailable("away")
    with pytest.raises(Unavailable):
        door(ask())


def test_without_the_api_server_what_is_kept_counts(door: Door) -> None:
    door.reviews.is_away = True
    with pytest.raises(Unavailable):
        door(ask())
    assert door.broker.asked == 0
    door.reviews.is_away = False
    door(ask())
    door.reviews.is_away, door.now = True, 500.0
    assert door(ask()) == grant()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (reviewed(authenticated=False), "not valid"),
        (reviewed(audiences=["elsewhere"]), "another audience"),
        (reviewed("uid-2"), "not bound to that pod"),
        (reviewed(user={"username": "system:serviceaccount:other:server"}), "another service account"),
        (reviewed(user={"username": "system:serviceaccount:team:server"}), "not bound to that pod"),
    ],
)
def test_a_token_that_is_not_the_pods_is_refused_whatever_is_kept(door: Door, status: Mapping[str, object], told: str) -> None:
    door(ask())
    door.reviews.status = status
    with pytest.raises(Denied, match=told):
        door(ask())


def test_a_pod_without_a_token_gets_nothing(door: Door) -> None:
    with pytest.raises(Denied, match="without the pod's own token"):
        door(ask(token=None))


def test_an_answer_to_something_else_is_refused(door: Door) -> None:
    door.broker.answer = grant("sha256:" + "b" * 64)
    with pytest.raises(Denied, match="something else"):
        door(ask())


def test_no_token_is_ever_written_and_what_is_over_goes(door: Door) -> None:
    door.reviews.status = reviewed("uid-9")
    door(ask("uid-9", artifact=None))
    door.reviews.status, door.now = None, 2000.0
    door.broker.answer = grant(fresh_until=2100.0, valid_until=3000.0)
    door(ask("uid-1", artifact=None))
    kept = {path.stem: path for path in (door.folder / "grants").glob("*.json")}
    assert kept.keys() == {key_of(ask("uid-1", artifact=None)), key_of(ask())}
    for path in kept.values():
        assert b"secret-token" not in path.read_bytes()
        path.write_text("damaged")
    door(ask("uid-1", artifact=None))
    assert door.broker.asked == 3
